"""The words of the reports, each explained once: where it first stands on a page."""

SCORES = {  # how known a particle looks, by the name of the score
    "knn_cosine": "likeness to the nearest training volumes of a known class",
    "max_cosine": "likeness to the nearest known class's mean",
    "mahalanobis": "minus the distance to the nearest class mean, in units of the spread within classes",
    "knn_less_cohort": (
        "likeness to the nearest training volumes of a known class, less the likeness to made-up shapes that are none "
        "of the classes"
    ),
    "max_logit": "the highest output of the classifier that the network was trained with",
    "energy": "the outputs of that classifier for all known classes taken together, of which the highest counts most",
}
TERMS = {
    "known class": "a class that training saw. An unseen or held-out class is one that it never saw.",
    "embedding": "the list of numbers that the network makes of a volume. Alike particles should get alike numbers.",
    "nearest prototype": (
        "a class's prototype is the mean embedding of its training volumes; a volume is given the class of the nearest."
    ),
    "interval": (
        "[low, high]: where the figure would lie in 95 of 100 tests with as many other particles of the same classes. "
        "It says nothing about other classes."
    ),
    "SNR": "signal-to-noise ratio of a volume: 0.03 is very noisy, 1 is as much signal as noise.",
    "called unknown": "its score is below the threshold that train.py set on validation volumes of known classes.",
    "AUC": (
        "of one pair of the same class and one of different classes, how often the first is the more alike: 0.5 is "
        "guessing, 1 is never wrong."
    ),
    "seen-seen pairs": (
        "pairs of particles of known classes; in seen-unseen pairs the different ones are of a known and an unseen "
        "class; in unseen-unseen pairs both are of unseen classes."
    ),
    "authors' protocol": (
        "600 same and 1,200 different pairs; the threshold that is best on nine tenths of them judges the last tenth."
    ),
    "EER": "equal error rate: the share of wrong answers where both kinds of mistake are equally frequent; 0 is best.",
    "VAL at FAR": (
        "the share of same pairs found (VAL, validation rate) where only that share of different pairs is wrongly "
        "accepted (FAR, false-accept rate). A dash: too few pairs to say."
    ),
    "AUROC": (
        "of one known and one unknown particle, how often the known one has the higher score: 0.5 is guessing, 1 is "
        "never wrong."
    ),
    "junk": (
        "what a picker takes for a particle and is none: noise, membrane, gold beads, carbon, a box beside its "
        "particle. AUROC here: how often a particle looks less like junk than junk does."
    ),
    "AUPR": "the mean share of knowns among the particles above a threshold (precision), over all thresholds.",
    "FPR95": "the share of unknown particles that are let in as known where 95 % of the known ones are; 0 is best.",
    "OSCR": "as AUROC, but a known particle counts only where its class is right too; at most the accuracy.",
    **{name: f"score: {text}." for name, text in SCORES.items()},
    "enrolment": (
        "a few particles of a new class are named (5-shot: five of each); the others are compared with these. Nothing "
        "is trained again."
    ),
    "groups": "of particles that lie close together, found without examples, as is their number; some may be in none.",
    "adjusted Rand index": "agreement of groups with true classes: 1 is perfect, 0 is chance.",
    "NMI": "normalised mutual information: agreement again, 0 to 1.",
    "purity": "the share of particles that are of the commonest class of their group.",
    "stable": "a group that is found again when some of the particles are left out.",
    "floor": (
        "what something without a trained network achieves on the same test: the untrained network, brightness, size. "
        "Where a floor does as well, the network's figure does not show that it sees structure."
    ),
    "size as round blobs see it": "how well round blobs of five sizes fit the middle of the volume.",
    "true masks": "the exact size of the simulated particle, which no one has of a real one.",
    "structure": "the share of the score's variance that being known or unknown explains.",
    "alone, within": (
        "AUROC of the factor by itself; and AUROC of the score among particles that are alike in the factor."
    ),
}
