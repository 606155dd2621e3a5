#!/usr/bin/env bash
# The whole pipeline on a small simulated data set, in the folder demo/: 6 minutes at most on two idle CPU cores.
# A second run reuses what is there; to start anew, delete the folder demo/.
set -euo pipefail
cd "$(dirname "$0")"
source common/setup_venv.sh
mkdir -p demo
cd demo

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Fourteen procedural complexes: eight are known, two help to choose, four stay unseen until the end.
run python ../simulate.py --procedural 14 --per-class 100 --snr 0.1 0.5 inf
run python ../csv_split.py --valid-unseen complex08 complex09 --unseen complex10 complex11 complex12 complex13
run python ../check_split.py
run python ../train.py --width 8 --epochs 20 --resume
run python ../test.py model_save/checkpoint.pt
run python ../open_set.py model_save/checkpoint.pt --bootstrap 50

echo
python - results/model_save-checkpoint <<'EOF'
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
closed = json.loads((folder / "closed_set.json").read_text())
unseen = json.loads((folder / "open_set.json").read_text())["unseen"]
chance = 1 / len(closed["classes"])
auc = unseen["verification"]["unseen_unseen"]["auc"]
print("THE DEMO IN SHORT")
print(f"{len(closed['classes'])} known classes, test accuracy       {closed['accuracy']:.3f}   (chance {chance:.3f})")
for row in closed["per_snr"]:
    print(f"    at SNR {row['snr']:8s}                {row['accuracy']:.3f}")
print(f"{len(unseen['classes'])} unseen classes, AUC of their pairs {auc:.3f}   (chance 0.500)")
print("open demo/results/model_save-checkpoint/open_set.html first")
print("written in demo/: data_/contact_sheet.png, csv_split/, model_save/checkpoint.pt, log.csv and")
for path in sorted(folder.iterdir()):
    print(f"    {path}")
if closed["accuracy"] < 3 * chance or auc < 0.7:
    sys.exit("the demo FAILED: expected a test accuracy of three times chance and an AUC of 0.7 at least")
EOF
