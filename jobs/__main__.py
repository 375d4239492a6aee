"""`python -m jobs <job> ...`: parse the line, run the job, print what it says, exit with its code.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 finished but too much was rejected,
130 interrupted.
"""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from engine import log
from engine.errors import ConfigError, EngineError
from jobs import JOBS
from jobs.job import JobResult, Options

_logger = logging.getLogger("jobs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; return the exit code."""
    arguments = parser().parse_args(argv)
    log.setup(arguments.verbose, arguments.log)
    job = importlib.import_module(JOBS[arguments.job].module)
    try:
        with log.stray_lines():  # Ray's daemons print whatever they like
            result: JobResult = job.run(Options.from_namespace(arguments))
        _print(result, arguments.json)
        return result.exit_code
    except ConfigError as error:
        return _fail(error, 2)
    except EngineError as error:
        return _fail(error, 1)
    except (KeyboardInterrupt, SystemExit):  # Ray makes the latter of SIGTERM, which stops a submitted job
        _tell("interrupted: what is done is kept; run the same line again to go on", logging.WARNING)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last stop: a user is told, whatever it is
        return _fail(_fault(error, arguments.verbose), 1)


def _fail(error: EngineError, code: int) -> int:
    _tell(f"error: {error}", logging.ERROR)
    return code


def _tell(text: str, level: int) -> None:
    """Say the last word: plainly to people, to machines as all that was said before."""
    if log.current_format() == "json":
        _logger.log(level, "%s", text)
    else:
        print(log.without_secrets(text), file=sys.stderr)


def _fault(error: Exception, verbose: bool) -> EngineError:
    """One line for what nobody foresaw; the traceback is for those who ask."""
    if verbose:
        _logger.error("unforeseen", exc_info=error)
    text = " ".join(str(error).split())
    hint = "" if verbose else "The same line with --verbose shows where."
    return EngineError("the program failed, not its input", type(error).__name__, text, hint=hint)


def _print(result: JobResult, as_json: bool) -> None:
    lines = result.lines
    if as_json:
        lines = [json.dumps(result.summary, default=str)] if result.json_lines is None else result.json_lines
    for line in lines:
        print(line)
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """Return what understands the command line."""
    line = argparse.ArgumentParser("python -m jobs", description=__doc__)
    jobs = line.add_subparsers(dest="job", required=True, metavar="JOB")
    for name, entry in JOBS.items():
        job = jobs.add_parser(name, help=entry.summary, description=entry.summary)
        if entry.takes == "config":
            _add_config_arguments(job, name)
        else:
            _add_catalog_arguments(job, name)
        job.add_argument("-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                         help="set a configuration key, e.g. -o output.uri=s3://bucket/name")  # fmt: skip
        job.add_argument("--json", action="store_true", help="print the result as JSON")
        job.add_argument("--verbose", action="store_true", help="log more")
        job.add_argument("--log", choices=("text", "json"), default="text", help="how lines of the log look")
    return line


def _add_config_arguments(job: argparse.ArgumentParser, name: str) -> None:
    job.add_argument("config", help="TOML file, here or s3://bucket/key; see jobs/configs")
    job.add_argument("--plan", action="store_true", help="say what would be done, and stop")
    job.add_argument("--limit", type=_positive, metavar="N", help="use only the first N units of work")
    if name == "reprocess":
        job.add_argument("--repair", action="store_true", help="make anew what is damaged in the catalogue")


def _add_catalog_arguments(job: argparse.ArgumentParser, name: str) -> None:
    more = ", or the configuration (.toml) that writes it" if name == "status" else ""
    job.add_argument("uri", help=f"catalogue: a folder or s3://bucket/prefix{more}")
    if name not in ("prune", "status"):
        job.add_argument("--version", type=_positive, metavar="N", help="an older version (default: newest)")
    if name == "crossmatch":
        _add_match_arguments(job)
    if name == "query":
        job.add_argument("sql", help='one SELECT, e.g. "SELECT targetid, anomaly_score FROM catalog LIMIT 9"')
        job.add_argument("--limit", type=_positive, metavar="N", help="print at most N rows")
        job.add_argument("--allow", action="append", metavar="PATH",
                         help="a file or folder (here or s3://) that the SELECT may read besides; may be repeated")  # fmt: skip
    if name == "report":
        job.add_argument("--out", metavar="PATH", help="where to write the HTML file")
        job.add_argument("--limit", type=_positive, metavar="N", help="objects in the gallery")
    if name in ("labels", "rerank"):
        job.add_argument("--labels", metavar="FILE", help="CSV of labels to add, in Astronomaly's layout")
        job.add_argument("--who", metavar="NAME", help="who labelled (default: the user)")
        job.add_argument("--why", metavar="TEXT", help="what the labels are about")
    if name == "labels":
        job.add_argument("--out", metavar="FILE", help="write labels, and objects to be labelled, as CSV")
        job.add_argument("--limit", type=_positive, metavar="N", help="objects to be labelled in that file")
    if name == "status":
        job.add_argument(
            "--run", metavar="NAME", help="an older run (default: the last, and any that goes on)"
        )
    if name == "prune":
        job.add_argument("--keep", type=_positive, metavar="N", help="versions that stay (default 3)")
        job.add_argument("--plan", action="store_true", help="list what would be removed, and stop")


def _add_match_arguments(job: argparse.ArgumentParser) -> None:
    job.add_argument("other", help="HATS catalogue or collection: a folder, s3:// or https://")
    job.add_argument("--radius-arcsec", type=_radius, required=True, metavar="R", help="largest distance")
    job.add_argument("--neighbors", type=_positive, metavar="N", help="neighbours of each object (default 1)")
    job.add_argument("--limit", type=_positive, metavar="N", help="the N strangest (default 100000)")
    job.add_argument(
        "--columns", metavar="A,B", help="columns of the other catalogue (default: its own choice)"
    )
    job.add_argument("--out", metavar="URI", help="where to write (default: below the catalogue)")


def _radius(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 3600 arcsec (got {text})")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {text})")
    return value


if __name__ == "__main__":
    sys.exit(main())
