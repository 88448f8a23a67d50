"""Measures the claims of the papers and writes the table.

    python experiments/verify.py --papers=P170
    python experiments/verify.py --family=discrete
    python experiments/verify.py --all
    python experiments/verify.py --table        (rewrites PAPERS.md from what was measured)

Every claim appends a line to `experiments/results.jsonl`, and `experiments/PAPERS.md` is written anew from
`papers.yaml` and the newest line of each claim. A claim that does not hold stays in the table, with its numbers.
"""

import datetime
import json
import sys
import time
from pathlib import Path

import yaml
from absl import app, flags
from claims import Claim, all_claims

from jaxae.train.record import commit, versions

HERE = Path(__file__).parent
flags.DEFINE_list("papers", [], "Papers, such as P170,P087.")
flags.DEFINE_string("family", "", "All claims of one file under claims/.")
flags.DEFINE_bool("all", False, "All claims.")
flags.DEFINE_bool("table", False, "Only rewrite PAPERS.md.")


def measure(claim: Claim) -> dict:
    """Runs one claim: the line for `results.jsonl`."""
    started = time.perf_counter()
    outcome = claim.measure(claim.threshold)
    return {"paper": claim.paper, "claim": claim.name, "holds": bool(outcome.holds), "measured": outcome.measured,
            "threshold": claim.threshold, "seeds": list(outcome.seeds),
            "seconds": round(time.perf_counter() - started, 1), "commit": commit(), "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def newest(path: Path) -> dict[tuple[str, str], dict]:
    """The newest line of each claim."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    return {(row["paper"], row["claim"]): row for row in rows}


def table(papers: list[dict], claims: list[Claim], results: dict[tuple[str, str], dict]) -> str:
    """The text of PAPERS.md."""
    lines = ["# Papers", "", "Written by `python experiments/verify.py`; do not edit.", ""]
    done = sum(paper["status"] == "done" for paper in papers)
    holding = sum(row["holds"] for row in results.values())
    lines += [f"{len(papers)} papers, {done} done; {len(claims)} claims, {len(results)} measured, {holding} hold.", "",
              "| paper | system | arXiv | code | config | status |", "|---|---|---|---|---|---|"]
    for p in papers:
        note = f": {p['note']}" if p["note"] else ""
        lines.append(f"| {p['id']} {p['title']} | {p['system']} | {p['arxiv']} | `{p['code']}` | `{p['config']}` | "
                     f"{p['status']}{note} |")
    lines += ["", "## Claims", "", "| paper | claim | verdict | measured | threshold | seconds | date |",
              "|---|---|---|---|---|---|---|"]
    titles = {p["id"]: f"{p['id']} {p['title']} (arXiv {p['arxiv']})" for p in papers}
    for claim in claims:
        row = results.get((claim.paper, claim.name))
        verdict = "not measured" if row is None else "holds" if row["holds"] else "**does not hold**"
        cells = ["", "", "", ""] if row is None else [_numbers(row["measured"]), _numbers(row["threshold"]),
                                                      str(row["seconds"]), row["date"][:10]]
        lines.append(f"| {titles.get(claim.paper, claim.paper)} | `{claim.name}`: {claim.sentence} | {verdict} | "
                     + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def check_rows(papers: list[dict], claims: list[Claim]) -> None:
    """Raises ValueError where papers.yaml and the registered claims disagree."""
    listed = {(p["id"], name) for p in papers for name in p["claims"]}
    registered = {(c.paper, c.name) for c in claims}
    if listed != registered:
        raise ValueError(f"papers.yaml and claims/ disagree on {sorted(listed ^ registered)}")


def _numbers(values: dict) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def main(_) -> None:
    """Runs the chosen claims."""
    claims = all_claims()
    papers = yaml.safe_load((HERE / "papers.yaml").read_text())
    check_rows(papers, claims)
    wanted = flags.FLAGS
    unknown = set(wanted.papers) - {c.paper for c in claims}
    if unknown:
        sys.exit(f"error: no claims of {', '.join(sorted(unknown))}; there are {sorted({c.paper for c in claims})}")
    if wanted.family and wanted.family not in {c.family for c in claims}:
        sys.exit(f"error: no family {wanted.family!r}; there are {sorted({c.family for c in claims})}")
    chosen = [c for c in claims if wanted.all or c.paper in wanted.papers or c.family == wanted.family]
    if not chosen and not wanted.table:
        sys.exit("error: choose claims with --papers, --family or --all")
    path = HERE / "results.jsonl"
    for claim in chosen:
        print(f"{claim.paper} {claim.name} (budget {claim.budget} s): {claim.sentence}", flush=True)
        row = measure(claim)
        with open(path, "a") as file:
            file.write(json.dumps(row, sort_keys=True) + "\n")
        print(f"  {'holds' if row['holds'] else 'DOES NOT HOLD'} in {row['seconds']} s: {_numbers(row['measured'])}",
              flush=True)
    (HERE / "PAPERS.md").write_text(table(papers, claims, newest(path)))


if __name__ == "__main__":
    app.run(main)
