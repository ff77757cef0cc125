"""Claims about batch normalization as hypotheses that recorded runs can test. Needs no torch."""

from bnkit.claims.all_hypotheses import CLAIMS, PAGES
from bnkit.claims.claim import Claim, Evidence, Scale
from bnkit.claims.claim_designs import Design, designs
from bnkit.claims.judge_hypotheses import Decision, Verdict, judge

__all__ = ["CLAIMS", "PAGES", "Claim", "Decision", "Design", "Evidence", "Scale", "Verdict", "designs", "judge"]
