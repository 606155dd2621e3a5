"""Lists of classes by use: the benchmark's, and those of the original work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassSet:
    """Names of classes by use: trained on, held out to choose settings, held out to report."""

    known: tuple[str, ...]
    valid_unseen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Known, then valid_unseen, then unseen."""
        return self.known + self.valid_unseen + self.unseen


CLASS_SETS = {
    "benchmark": ClassSet(
        known=("1bxn", "3gl1", "3hhb", "1gme", "3wip", "2j5k", "3pei", "3j9i", "1u6g", "1w27"),
        valid_unseen=("2hpi", "1jff", "3sn6", "4zxb", "5gjv", "4v4r_30S"),
        unseen=("1qvr", "2cg9", "3h84", "2izz", "1c3c", "2mnr", "1oel", "1igy"),
    ),
    "original": ClassSet(known=("1bxn", "1f1b", "1yg6", "2byn", "3gl1", "4d4r", "6t3e", "2ldb", "2h12", "3hhb")),
}
