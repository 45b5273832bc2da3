"""Fusion inside generate: the same tokens as the twin without caches, whatever the batch."""

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from reference.fused_step import greedy
from taskgrove.composing.cached import Cached
from taskgrove.composing.dynamic_alpha import Rule, fuse_step
from taskgrove.composing.fused_lm import FusedLM, LogitsFusion, encode
from taskgrove.composing.load import load_fused
from taskgrove.errors import TaskgroveError
from tiny_language_models import tiny_model, tiny_tokenizer

PROMPTS = ["the cat", "a dog and the bird sat on a mat", "b"]
RULES = {
    "single": (1, Rule()), "axes": (2, Rule("axes")), "random": (2, Rule("random")),
    "joint": (3, Rule("joint")), "proxy": (2, Rule(alpha=1.0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def trio(kind, tokenizer, experts, pad=0):
    """large, small, experts, of random weights; the large one's vocabulary is padded."""
    size = len(tokenizer)
    large = tiny_model(kind, size + pad, seed=0, width=32)
    small = tiny_model(kind, size, seed=1, width=16)
    tuned = [tiny_model(kind, size, seed=1, width=16, moved=2 + n) for n in range(experts)]
    return large, small, tuned


def options(steps=12, **more):
    return GenerationConfig(
        max_new_tokens=steps, do_sample=False, pad_token_id=0, eos_token_id=None, **more
    )


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("rule", RULES)
def test_greedy_is_the_twin_without_a_cache(kind, rule, tokenizer):
    count, chosen = RULES[rule]
    large, small, experts = trio(kind, tokenizer, count)
    fused = FusedLM(large, small, experts, tokenizer, chosen)
    found = fused.generate(PROMPTS, options())  # padded on the left, in one batch

    def choose(logits):
        return fuse_step(logits[0], logits[1], torch.stack(logits[2:]), chosen)[0][0]

    plain = [
        greedy(large, small, experts, tokenizer(p)["input_ids"], 12, lambda logits: logits[0][0])
        for p in PROMPTS
    ]
    for prompt, answer in zip(PROMPTS, found, strict=True):
        twin = greedy(large, small, experts, tokenizer(prompt)["input_ids"], 12, choose)
        assert answer.tokens == twin
        assert answer.text == tokenizer.decode(twin, skip_special_tokens=True)
        assert answer.alpha.shape == (12, count)
    assert [answer.tokens for answer in found] != plain  # or fusion shows nothing here


def test_batch_is_one_by_one_alpha_too(tokenizer):
    fused = FusedLM(*trio("gpt2", tokenizer, 2), tokenizer)
    for prompt, answer in zip(PROMPTS, fused.generate(PROMPTS, options()), strict=True):
        (alone,) = fused.generate([prompt], options())
        assert alone.tokens == answer.tokens
        torch.testing.assert_close(alone.alpha, answer.alpha, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_beams_carry_their_caches_along(kind, tokenizer):
    """What beam search finds with caches that change places is what it finds without caches."""
    large, small, experts = trio(kind, tokenizer, 2)
    found = FusedLM(large, small, experts, tokenizer).generate(PROMPTS, options(8, num_beams=4))
    moved = []

    class Fresh(LogitsFusion):
        """Reads everything again at every step."""

        def __call__(self, input_ids, scores):
            known = self._ids
            if known is not None and not torch.equal(input_ids[:, :-1], known):
                moved.append(input_ids.shape[1])
            for model in self._models:
                model._past, model._seen = None, 0
            return super().__call__(input_ids, scores)

    ids, mask = encode(tokenizer, PROMPTS)
    whole = large.generate(
        input_ids=ids, attention_mask=mask.long(), generation_config=options(8, num_beams=4),
        logits_processor=LogitsProcessorList([Fresh(small, experts, mask=mask)]),
    )  # fmt: skip
    assert [answer.tokens for answer in found] == whole[:, ids.shape[1] :].tolist()
    assert moved  # or this shows nothing
    again = FusedLM(large, small, experts, tokenizer)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        (alone,) = again.generate([prompt], options(8, num_beams=4))
        assert alone.tokens == answer.tokens
        ids = torch.tensor([[*tokenizer(prompt)["input_ids"], *answer.tokens]])
        alpha = again.log_probs(ids, torch.ones_like(ids).bool())[1][0, -9:-1]
        torch.testing.assert_close(answer.alpha, alpha, rtol=0, atol=5e-3)


def test_each_token_costs_one_forward_of_each_model(tokenizer):
    large, small, experts = trio("llama", tokenizer, 2)
    ids, mask = encode(tokenizer, PROMPTS)
    fusion, read = LogitsFusion(small, experts, mask=mask), []
    hook = small.register_forward_pre_hook(
        lambda _module, _args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    large.generate(
        input_ids=ids, attention_mask=mask.long(), generation_config=options(10),
        logits_processor=LogitsProcessorList([fusion]),
    )  # fmt: skip
    hook.remove()
    assert fusion.forwards == 10 * 3
    assert read == [ids.shape[1], *[1] * 9]  # the prompt, then a token a step
    assert fusion.alpha.shape == (3, 10, 2)


def test_a_padded_vocabulary_is_cut_off_and_never_generated(tokenizer):
    large, small, experts = trio("qwen2", tokenizer, 2, pad=13)
    with torch.no_grad():
        large.get_output_embeddings().weight[len(tokenizer) :] += 100  # tempting
    answers = FusedLM(large, small, experts, tokenizer).generate(PROMPTS, options())
    assert all(token < len(tokenizer) for answer in answers for token in answer.tokens)
    with pytest.raises(TaskgroveError, match="different numbers of logits"):
        LogitsFusion(small, experts)(torch.ones(1, 3).long(), torch.zeros(1, len(tokenizer) + 13))


def test_sampling_cools_down_after_fusion(tokenizer):
    """A temperature near 0 samples the greedy answer of the fused distribution."""
    fused = FusedLM(*trio("gpt2", tokenizer, 2), tokenizer)
    cold = GenerationConfig(
        max_new_tokens=12, do_sample=True, temperature=1e-4, pad_token_id=0, eos_token_id=None
    )
    greedily = fused.generate(PROMPTS, options())
    assert [a.tokens for a in fused.generate(PROMPTS, cold)] == [a.tokens for a in greedily]


def test_an_answer_ends_where_its_end_token_stands(tokenizer):
    fused = FusedLM(*trio("gpt2", tokenizer, 1), tokenizer)
    (free,) = fused.generate(PROMPTS[:1], options())
    end = free.tokens[5]
    stop = free.tokens.index(end)
    short = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=end)
    answer = fused.generate(PROMPTS, short)[0]
    assert answer.tokens == free.tokens[: stop + 1]
    assert len(answer.alpha) == stop + 1


def test_teacher_forcing_is_generation(tokenizer):
    fused = FusedLM(*trio("llama", tokenizer, 2), tokenizer)
    (answer,) = fused.generate(PROMPTS[1:2], options())
    start = tokenizer(PROMPTS[1])["input_ids"]
    ids = torch.tensor([[0, 0, *start, *answer.tokens]])
    mask = torch.ones_like(ids).bool()
    mask[:, :2] = False
    log_probs, alpha = fused.log_probs(ids, mask)
    assert log_probs[0, len(start) + 1 : -1].argmax(-1).tolist() == answer.tokens
    torch.testing.assert_close(alpha[0, len(start) + 1 : -1], answer.alpha, rtol=0, atol=5e-3)


def test_a_model_without_a_cache_reads_all_again(tokenizer):
    model = tiny_model("gpt2", len(tokenizer), seed=0, width=16)
    ids, mask = encode(tokenizer, PROMPTS)
    kept, forgetful = Cached(model), Cached(model)
    for _ in range(3):
        forgetful._past, forgetful._seen = None, 0
        logits = kept.next(ids, mask)
        torch.testing.assert_close(logits, forgetful.next(ids, mask), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, kept.all(ids, mask)[:, -1], rtol=1e-4, atol=1e-5)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)


# --- what is refused ------------------------------------------------------------------------------


def test_mistakes_are_one_sentence(tokenizer):
    large, small, experts = trio("gpt2", tokenizer, 1)
    fused = FusedLM(large, small, experts, tokenizer)
    with pytest.raises(TaskgroveError, match="there is no expert"):
        LogitsFusion(small, [])
    with pytest.raises(TaskgroveError, match="padded on the right"):
        LogitsFusion(small, experts, mask=torch.tensor([[1, 0]]))
    with pytest.raises(TaskgroveError, match="num_return_sequences is 2"):
        fused.generate(PROMPTS, GenerationConfig(num_return_sequences=2, do_sample=True))
    with pytest.raises(TaskgroveError, match="prompt 2 has no tokens"):
        fused.generate(["a", ""], options())
    fusion, scores = LogitsFusion(small, experts), torch.zeros(2, len(tokenizer))
    fusion(torch.tensor([[1, 2], [3, 4]]), scores)
    for ids in ([[1, 2, 5, 6], [3, 4, 5, 6]], [[1, 2], [3, 4]], [[1, 2, 3], [5, 4, 3]]):
        with pytest.raises(TaskgroveError, match="do not continue them; expected one more token"):
            fusion(torch.tensor(ids), scores)


def test_folders_are_loaded_and_checked(tokenizer, tmp_path):
    large, small, experts = trio("gpt2", tokenizer, 2)
    for name, model in {"L": large, "S": small, "E1": experts[0], "E2": experts[1]}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    E = [tmp_path / "E1", tmp_path / "E2"]
    loaded = load_fused(tmp_path / "L", tmp_path / "S", E, Rule("joint"))
    found = loaded.generate(PROMPTS, options())
    same = FusedLM(large, small, experts, tokenizer, Rule("joint")).generate(PROMPTS, options())
    assert [answer.tokens for answer in found] == [answer.tokens for answer in same]
    with pytest.raises(TaskgroveError, match=r"nowhere is not there"):
        load_fused(tmp_path / "nowhere", tmp_path / "S", E)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    with pytest.raises(
        TaskgroveError, match=r"lora is a PEFT adapter, not .* with `taskgrove merge`"
    ):
        load_fused(tmp_path / "L", tmp_path / "S", [tmp_path / "lora"])
    tiny_tokenizer(words="other words altogether").save_pretrained(tmp_path / "E2")
    with pytest.raises(TaskgroveError, match=r"E2 does not share the vocabulary of .*L"):
        load_fused(tmp_path / "L", tmp_path / "S", E)
