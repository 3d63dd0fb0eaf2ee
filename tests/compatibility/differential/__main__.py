"""The report for two running brokers.

    python -m tests.compatibility.differential REFERENCE_PORT CANDIDATE_PORT [SCENARIO ...]

Both must be fresh and started with `SETTINGS` of conftest.py.
"""

from __future__ import annotations

import sys

from tests.compatibility.differential.compare import compare, missing_versions, report, run_script


def main() -> int:
    reference, candidate, *only = sys.argv[1:]
    result = compare(run_script("reference", int(reference), only), run_script("candidate", int(candidate), only))
    print(report(result))
    if not only and (missing := missing_versions(result)):
        print("never asked:", ", ".join(missing))
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
