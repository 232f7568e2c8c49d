"""Read the results to compare, from study folders or from best_config.json files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner.compare.records import Result
from tuner.errors import BadInput
from tuner.report.studies import find_study
from tuner.report.study_report import read_report
from tuner.result.config import check_points, read_config
from tuner.result.records import BestConfig
from tuner.search.its_study import require_its_study


def read_results(names: Sequence[str], studies: Path) -> list[Result]:
    """Read results by their names. Raises BadInput for one that cannot be read or is named twice."""
    results = [read_result(name, studies) for name in names]
    files = [str(Path(result.file).resolve()) for result in results]
    for result, file in zip(results, files, strict=True):
        if files.count(file) > 1:
            raise BadInput(f"{result.file}: named twice; name each result once")
    return results


def read_result(name: str, studies: Path) -> Result:
    """Read a best_config.json, or a study by its folder or its name in `studies`."""
    if Path(name).is_file():
        return Result(file=name, best=read_checked(name))
    report = read_report(find_study(name, studies))
    file = Path(report.folder) / "best_config.json"
    spent_s = report.time.wall_s if report.time else None
    return Result(file=str(file), best=read_checked(str(file)), state=report.state, search_s=spent_s)


def read_checked(file: str) -> BestConfig:
    """Read a best_config.json, and check the values of every point. Raises BadInput with the field."""
    best = read_config(file)
    check_points(best, file)
    require_its_study(Path(file), best)
    return best
