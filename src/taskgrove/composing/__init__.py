"""How models meet at inference: one method a file, one explicit table.

A rule of fusion chooses the weights alpha [batch expert] of one decoding step from the logits of
all models; `fused_lm` runs it while text is generated.
"""

from taskgrove.composing.dynamic_alpha import Rule, fuse_step, match_kl, match_kl_multi
from taskgrove.composing.logit_arithmetic import fuse

FUSIONS = {
    "proxy_tuning": Rule(alpha=1.0),
    "axes": Rule("axes"),
    "random": Rule("random"),
    "joint": Rule("joint"),
}

__all__ = ["FUSIONS", "Rule", "fuse", "fuse_step", "match_kl", "match_kl_multi"]
