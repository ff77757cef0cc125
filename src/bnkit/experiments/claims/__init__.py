"""What is said about batch normalization, as questions that records can answer. Needs no torch."""

from bnkit.experiments.claims.catalog import CLAIMS, PAGES
from bnkit.experiments.claims.claim import Claim, Evidence, Scale
from bnkit.experiments.claims.designs import Design, designs
from bnkit.experiments.claims.verdicts import Finding, Judged, judge

__all__ = ["CLAIMS", "PAGES", "Claim", "Design", "Evidence", "Finding", "Judged", "Scale", "designs", "judge"]
