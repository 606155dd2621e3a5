#!/usr/bin/env bash
# The whole pipeline on a small simulated data set, in the folder demo/: 5 minutes at most on two idle CPU cores.
# A second run reuses what is there; to start anew, delete the folder demo/.
set -euo pipefail
cd "$(dirname "$0")"
source common/setup_venv.sh
SECONDS=0  # without the installation
mkdir -p demo
cd demo

run() {
    printf '\n$ %s\n' "$*"
    local before=$SECONDS
    "$@"
    echo "[$((SECONDS - before)) s]"
}

# Fourteen procedural complexes: eight are known, two help to choose, four stay unseen until the end.
run python ../simulate.py --procedural 14 --per-class 100 --snr 0.1 0.5 inf
run python ../csv_split.py --valid-unseen complex08 complex09 --unseen complex10 complex11 complex12 complex13
run python ../check_split.py
run python ../train.py --init ../pretrained/universal.pt --epochs 5 --lr 1e-3 --resume
run python ../test.py model_save/checkpoint.pt
run python ../open_set.py model_save/checkpoint.pt --bootstrap 50

# New volumes, as a user has them: three of each known and each unseen class at SNR 0.5; their names tell what they are.
python - new_particles <<'EOF'
import shutil
import sys
from pathlib import Path

import pandas as pd

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
rows = pd.concat([pd.read_csv(f"csv_split/{part}.csv", dtype=str) for part in ("test", "unseen")])
for _, row in rows[rows["SNR Level"] == "05"].groupby("Actual Label").head(3).iterrows():
    shutil.copyfile(Path("csv_split") / row["Input Data"], folder / f"{row['Particle']}.mrc")
EOF
run python ../predict.py model_save/checkpoint.pt new_particles

# From a tomogram and picks to names: the known and the unseen complexes in one crowded volume, and picks of nothing.
picks_began=$SECONDS
run python ../simulate_tomogram.py --per-class 20 --snr 0.3 --classes complex0{0..7} complex1{0..3}
run python ../extract.py --coordinates tomograms/particles.star --tomograms tomograms --target-voxel-size 10
run python ../predict.py model_save/checkpoint.pt extracted/particles.csv --contrast dark --name tomogram
picks_took=$((SECONDS - picks_began))

# The same picks for a lab that has trained nothing: the shipped network never saw any of these complexes.
run python ../predict.py ../pretrained/universal.pt extracted/particles.csv --contrast dark --name tomogram

echo
PYTHONPATH=.. python - results/model_save-checkpoint "$SECONDS" "$picks_took" <<'EOF'
import json
import sys
from pathlib import Path

import pandas as pd

from loader.columns import CLUSTER, PREDICTION, SOURCE_ROW, snr_text
from report.truth import truth_text

folder = Path(sys.argv[1])
closed = json.loads((folder / "closed_set.json").read_text())
unseen = json.loads((folder / "open_set.json").read_text())["unseen"]
chance = 1 / len(closed["classes"])
auc = unseen["verification"]["unseen_unseen"]["auc"]
rejection = unseen["rejection"]
auroc = rejection["scores"][rejection["default_score"]]["auroc"]
print(f"THE DEMO IN SHORT, after {int(sys.argv[2]) // 60} min {int(sys.argv[2]) % 60} s")
print(f"{len(closed['classes'])} known classes, test accuracy        {closed['accuracy']:.3f}   (chance {chance:.3f})")
for row in closed["per_snr"]:
    print(f"    {snr_text(row['snr']):33s} {row['accuracy']:.3f}")
print(f"{len(unseen['classes'])} unseen classes, AUC of their pairs  {auc:.3f}   (chance 0.500)")
print(f"known against unseen, AUROC           {auroc:.3f}   (chance 0.500)")
for row in rejection["per_class"]:
    if row["taken_for_rate"] > 0.5:
        print(f"    {row['class']} is taken for {row['taken_for']} in {row['taken_for_rate']:.0%} of cases")
truth = pd.read_csv("tomograms/truth.csv")
picks, untrained = (
    pd.read_csv(path / "tomogram" / "predictions.csv")[[SOURCE_ROW, PREDICTION, CLUSTER]].merge(
        truth, on=SOURCE_ROW, validate="one_to_one"
    )
    for path in (folder, Path("results/pretrained-universal"))
)
print(f"{len(picks)} picks of a simulated tomogram, made, cut and named in {sys.argv[3]} s; junk: nothing is there")
print(truth_text(picks, closed["classes"]))
print("the same picks by the shipped network, which was trained on none of these classes")
print(truth_text(untrained, []))
print("open demo/results/model_save-checkpoint/open_set.html first, then tomogram/report.html beside it: the picks")
print("written in demo/: data_/contact_sheet.png, csv_split/, model_save/checkpoint.pt, log.csv, new_particles/,"
      " tomograms/tomograms.png, extracted/check.png and")
for path in sorted([*folder.glob("*.*"), *folder.glob("*/*")]):
    print(f"    {path}")
if closed["accuracy"] < 3 * chance or auc < 0.7:
    sys.exit("the demo FAILED: expected a test accuracy of three times chance and an AUC of 0.7 at least")
EOF
