"""What is said about batch normalization, as questions that records can answer. Needs no torch."""

from bnkit.claims.catalog import CLAIMS, PAGES
from bnkit.claims.claim import Claim, Evidence, Scale
from bnkit.claims.designs import Design, designs
from bnkit.claims.judge import Finding, Judged, judge

__all__ = ["CLAIMS", "PAGES", "Claim", "Design", "Evidence", "Finding", "Judged", "Scale", "designs", "judge"]
