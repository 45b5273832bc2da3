"""LoRA folders of PEFT: exact both ways, and refused where stacked tensors could not hold them."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from command_line import call, works
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point, linears
from taskgrove.sharing.lora import LoRA
from taskgrove.sharing.peft_folder import export_lora, import_lora
from taskgrove.sharing.route import Route
from taskgrove.sharing.sharing import Sharing
from test_backbones import small_bert

SITES = ("query", "value", "output.dense")
WRAPPED = "base_model.model."


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(num_hidden_layers=2, vocab_size=50, **sizes)
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


class Other(Parts):
    """A choice and its parts that are no LoRA."""

    about, starts_at_base, sites = "", True, staticmethod(linears)

    def points(self):
        return {"encoder.layer.0.output.dense": Point("after", lambda *three: three[1])}

    def parts(self, *_):
        return self


def write(folder, seed, *, r=3, alpha=4.0, rslora=False, sites=SITES, **more):
    """A folder as PEFT writes it; returns {module: (A, B)}."""
    generator = torch.Generator().manual_seed(seed)
    factors, tensors = {}, {}
    for name, module in bert().named_modules():
        if any(name.endswith(site) for site in sites):
            shape = (r, module.in_features), (module.out_features, r)
            A, B = (torch.randn(size, generator=generator) * 0.2 for size in shape)
            factors[name] = A, B
            tensors[f"{WRAPPED}{name}.lora_A.weight"] = A
            tensors[f"{WRAPPED}{name}.lora_B.weight"] = B
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "use_rslora": rslora, **more}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return factors


@pytest.mark.parametrize("rslora", [False, True])
def test_folders_become_tasks_of_one_model(tmp_path, rslora):
    ids = torch.arange(12).view(3, 4)
    found = {t: write(tmp_path / t, n, rslora=rslora) for n, t in enumerate(("law", "code"))}
    trunk = bert()
    sharing = import_lora(trunk, {t: tmp_path / t for t in found})
    with torch.no_grad(), sharing.using(Route((), torch.arange(6), (0, 3, 6))):
        y = trunk(input_ids=torch.cat([ids, ids]))[0]
    for n, factors in enumerate(found.values()):
        whole, scale = bert(), 4 / (3**0.5 if rslora else 3)
        for name, (A, B) in factors.items():
            whole.get_submodule(name).weight += scale * B @ A
        torch.testing.assert_close(y[3 * n : 3 * n + 3], whole(input_ids=ids)[0])
    export_lora(sharing, "code", tmp_path / "again")
    ours, theirs = (
        load_file(tmp_path / f / "adapter_model.safetensors") for f in ("again", "code")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    facts = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (facts["r"], facts["lora_alpha"], facts["use_rslora"]) == (3, 4.0, rslora)
    assert set(facts["target_modules"]) == set(found["law"])


def test_other_ranks_by_module_go_there_and_back(tmp_path):
    trunk = bert()
    rules = [("*.query", LoRA(rank=2)), ("*.value", LoRA(rank=4, alpha=2.0))]
    sharing = Sharing(trunk, rules, ["law"])
    for parameter in sharing.parameters():
        torch.nn.init.normal_(parameter)
    export_lora(sharing, "law", tmp_path / "law")
    sharing.detach()
    again = import_lora(trunk, {"law": tmp_path / "law"})
    assert {choice for _, choice in again.rules} == {choice for _, choice in rules}
    with torch.no_grad(), again.using(Route((), torch.arange(2), (0, 2))):
        found = trunk(input_ids=torch.ones(2, 3, dtype=torch.long))[0]
    again.detach()
    kept = Sharing(trunk, rules, ["law"])
    kept.load_state_dict(sharing.state_dict())
    with torch.no_grad(), kept.using(Route((), torch.arange(2), (0, 2))):
        assert torch.equal(trunk(input_ids=torch.ones(2, 3, dtype=torch.long))[0], found)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"r": 2}, "have another rank or scale"),
        ({"alpha": 5.0}, "have another rank or scale"),
        ({"sites": ("query",)}, "adapt other modules"),
        ({"use_dora": True}, "uses DoRA"),
        ({"peft_type": "IA3"}, "type IA3; expected LORA"),
    ],
)
def test_what_stacked_tensors_cannot_hold_is_refused(tmp_path, other, words):
    write(tmp_path / "law", 0)
    write(tmp_path / "code", 1, **other)
    folders = {t: tmp_path / t for t in ("law", "code")}
    with pytest.raises(TaskgroveError, match=re.escape(words)):
        import_lora(bert(), folders)


def test_another_base_and_no_lora_are_refused(tmp_path):
    write(tmp_path / "law", 0)
    wide = torch.nn.ModuleDict({"query": torch.nn.Linear(3, 3)})
    with pytest.raises(TaskgroveError, match="no linear layer of this trunk"):
        import_lora(wide, {"law": tmp_path / "law"})
    sharing = Sharing(bert(), [("*", Other())], ["law"])
    with pytest.raises(TaskgroveError, match="is no LoRA"):
        export_lora(sharing, "law", tmp_path / "out")
    with pytest.raises(TaskgroveError, match=r'no task "lw".*Did you mean "law"'):
        export_lora(sharing, "lw", tmp_path / "out")


def test_the_command_writes_a_folder(tmp_path):
    small_bert(tmp_path / "bert")
    (tmp_path / "rows.csv").write_text(
        "text,topic\n"
        + "".join(
            f"{['cat', 'dog', 'the'][n % 3] * (n // 3 + 1)},{'ab'[n % 2]}\n" for n in range(90)
        )
    )
    (tmp_path / "tasks.yaml").write_text(
        f"data: rows.csv\ntext: text\nbackbone: {tmp_path / 'bert'}\ntasks: {{topic: {{}}}}\n"
    )
    train = ("train", "lora", "--tasks", tmp_path / "tasks.yaml", "--steps", 1)
    works(*train, "--out", tmp_path / "model")
    works("export-lora", tmp_path / "model", "--task", "topic", "--out", tmp_path / "lora")
    from transformers import AutoModel

    base = AutoModel.from_pretrained(tmp_path / "model" / "backbone")
    import_lora(base, {"topic": tmp_path / "lora"})
    answer = call("export-lora", tmp_path / "model", "--task", "tpic", "--out", tmp_path / "x")
    assert answer.code == 2
    assert 'Did you mean "topic"' in answer.err
