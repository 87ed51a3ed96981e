"""Reads the reports of a run and says what failed. Arguments: their folder, and how many cases there
must be (0: any number)."""

import json
import pathlib
import sys

folder, expected = pathlib.Path(sys.argv[1]), int(sys.argv[2])
cases = {}
for agent in json.loads((folder / "index.json").read_text()).values():
    cases.update(agent)
failed = []
for name, case in cases.items():
    if not {case["behavior"], case["behaviorClose"]} <= {"OK", "INFORMATIONAL"}:
        failed.append(name)
for name in sorted(failed, key=lambda name: [int(part) for part in name.split(".")]):
    case = cases[name]
    why = ""
    for report in folder.glob(f"*_case_{name.replace('.', '_')}.json"):
        details = json.loads(report.read_text())
        why = f"{details.get('result')}; {details.get('resultClose')}"
    print(f"failed {name}: {case['behavior']}, close {case['behaviorClose']}: {why:.300}")
missing = max(expected - len(cases), 0)
if missing or not cases:
    print(f"{missing} of {expected} cases did not run")
print(f"{len(cases) - len(failed)} passed, {len(failed) + missing} failed")
sys.exit(1 if failed or missing or not cases else 0)
