"""`python -m ami_beam.flex_template`: what Dataflow knows of the flex template, made of the command line's options.

python -m ami_beam.flex_template                     # check: exit code 1 says what is out of step
python -m ami_beam.flex_template write               # after a change of an option
python -m ami_beam.flex_template print               # templates/dataflow/metadata.json
python -m ami_beam.flex_template spec --image=IMAGE  # the file that a launch names (container spec), for that image
python -m ami_beam.flex_template flags window=15m …  # parameters as gcloud's --flags-file has them
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apache_beam.version import __version__ as beam_version

from ami_beam import __version__
from ami_beam.beam_options import OptionError, Parser
from ami_beam.command import leave
from ami_beam.options import AmiOptions

FILE = Path(__file__).parent.parent / "templates" / "dataflow" / "metadata.json"
NOT_IN_A_TEMPLATE = {
    "on_stop": "a launch ends before the job runs",
    "return_when": "a launch returns when the job is described",
    "pass_to_runner": "Dataflow's options are Beam's own, and go into the launch's environment",
}
"""Options that are no parameters, and why."""
_REQUIRED = ("bootstrap_servers",)
_DURATION = r"^[0-9]+(ms|s|m|h|d)$"
_NUMBER = r"^[0-9]+([.][0-9]+)?$"
_TOPIC = r"^([A-Za-z0-9._-]{1,249}|gs://.+)$"
_SECRET = r"^secretmanager://projects/[^/]+/secrets/[A-Za-z0-9_-]{1,255}(/versions/(latest|[0-9]+))?$"
_REGEXES = {
    "DURATION": _DURATION, "PERCENT": _NUMBER, "VOLTS": _NUMBER, "KWH": _NUMBER, "TOPIC|PATH": _TOPIC,
    "LOW:HIGH": r"^[0-9]+([.][0-9]+)?:[0-9]+([.][0-9]+)?$", "N": r"^[0-9]+$", "HOST:PORT,…": r"^[^ ]+:[0-9]{1,5}$",
    "PROJECT:DATASET": r"^[^:]+:[A-Za-z0-9_]+$", "ZONE": r"^[A-Za-z0-9_+/-]+$",
}  # fmt: skip
"""What the words for values in `--help` allow. The whole check is `ami_beam.run`'s; this one is the console's."""
_OWN_REGEXES = {
    "shards": r"^(auto|[0-9]+)$",
    "start": r"^(latest|earliest|[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$",
    "output_prefix": r"^[A-Za-z0-9._-]{0,200}$",
    "schema_registry": r"^https?://[^ ]+$",
}
_READ = ("meter_counts", "meter_registry", "producers", "event_map", "quality_map")
_WRITTEN = ("output", "validated_files")
_WORDS = {
    "kafka": "Kafka", "oms": "OMS", "postgresql": "PostgreSQL", "bigquery": "BigQuery", "kwh": "kWh", "io": "I/O",
    "pct": "per cent", "id": "id",
}  # fmt: skip
_EVERYTHING_ELSE = "In every run"


@dataclass(frozen=True)
class Parameter:
    """One option as the console shows it."""

    name: str
    help_text: str
    group: str
    default: str | None
    kind: str
    """A ParameterType of the Dataflow API."""
    regexes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As ParameterMetadata of the Dataflow API has it."""
        made: dict[str, Any] = {
            "name": self.name,
            "label": _label(self.name),
            "helpText": self.help_text,
            "paramType": self.kind,
            "isOptional": self.name not in _REQUIRED,
            "groupName": self.group,
        }
        if self.default:
            made["defaultValue"] = self.default
        if self.regexes:
            made["regexes"] = list(self.regexes)
        if self.choices:
            made["enumOptions"] = [{"value": choice, "label": choice} for choice in self.choices]
        return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done or in step, 1 out of step, 2 a wrong option."""
    parser = Parser(
        prog="python -m ami_beam.flex_template",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", default="check", choices=("check", "write", "print", "spec", "flags"))
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="of flags: options without their dashes")
    parser.add_argument("--image", metavar="IMAGE", help="of spec: name and tag or digest, as registries have it")
    try:
        given = parser.parse_args(argv)
        if given.action == "spec":
            print(as_text(container_spec(image_of(given.image))), end="")
            return 0
        if given.action == "flags":
            print(as_text({"--parameters": parameters_of(given.parameters)}), end="")
            return 0
    except OptionError as error:
        print(f"ami_beam.flex_template: {error}", file=sys.stderr)
        return 2
    text = as_text(metadata())
    if given.action == "print":
        print(text, end="")
    elif given.action == "write":
        FILE.write_text(text, encoding="utf-8")
    elif text != FILE.read_text(encoding="utf-8"):
        print(f"{FILE.name} is out of step with the options: python -m ami_beam.flex_template write")
        return 1
    else:
        print("In step.")
    return 0


def parameters_of(words: Sequence[str]) -> dict[str, str]:
    """Values by name, as a launch has them. Raises OptionError for what the template has not, or would refuse."""
    known = {parameter.name: parameter for parameter in parameters()}
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        option = f"--{name}"
        if name not in known or not equals:
            reason = NOT_IN_A_TEMPLATE.get(name, "the template has no such parameter")
            near = difflib.get_close_matches(name, known, n=1)
            allowed = f"did you mean {near[0]}?" if near else "the options of ami_beam.run; see --help there"
            raise OptionError(option, None, reason, allowed, "--window=15m")
        for regex in known[name].regexes:
            if not re.fullmatch(regex, value):
                raise OptionError(option, None, "its value is refused by the template", regex, "--window=15m")
        found[name] = value
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise OptionError(f"--{missing[0]}", None, "is missing", "", f"--{missing[0]}=broker1:9092")
    return found


def image_of(name: str | None) -> str:
    """An image that a registry may have. Raises OptionError."""
    example = f"--image=europe-west4-docker.pkg.dev/my-project/ami-beam/ami-beam:{__version__}"
    if name is None:
        raise OptionError("--image", None, "is missing", "name and tag, or name and digest", example)
    if not re.fullmatch(r"[a-z0-9.:-]+(?:/[a-z0-9._-]+)+(?::[\w.-]{1,128}|@sha256:[0-9a-f]{64})", name):
        raise OptionError("--image", name, "is no image with a tag or digest", "HOST/PATH:TAG", example)
    return name


def metadata() -> dict[str, Any]:
    """TemplateMetadata of the Dataflow API."""
    return {
        "name": "ami-beam",
        "description": "Smart-meter reads and events from Kafka in; summaries, receipt rates, alerts, alarms and dead"
        f" letters out, while they arrive. Version {__version__}, Beam {beam_version}.",
        "streaming": True,
        "supportsAtLeastOnce": True,
        "supportsExactlyOnce": True,
        "defaultStreamingMode": "EXACTLY_ONCE",
        "parameters": [parameter.as_json() for parameter in parameters()],
    }


def container_spec(image: str) -> dict[str, Any]:
    """ContainerSpec of the Dataflow API: one image launches and works."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(),
        "defaultEnvironment": {"sdkContainerImage": image, "enableStreamingEngine": True},
    }


def parameters() -> Iterator[Parameter]:
    """Every option of ours that a template's launch can have, in the order of `--help`."""
    for group, action in _options():
        name = action.option_strings[0].removeprefix("--")
        if name in NOT_IN_A_TEMPLATE:
            continue
        meant = str(action.metavar or "")
        choices = tuple(action.choices or ())
        if re.fullmatch(r"[a-z_]+(\|[a-z_]+)+", meant):
            choices = tuple(meant.split("|"))
        regexes = tuple(filter(None, [_OWN_REGEXES.get(name) or _REGEXES.get(meant)]))
        kind = "ENUM" if choices else "TEXT"
        if name in _READ:
            kind = "GCS_READ_FILE"
        elif name in _WRITTEN:
            kind = "GCS_WRITE_FOLDER"
        elif name.endswith("_file"):
            regexes = (_SECRET,)
        default = None if name in _READ + _WRITTEN else action.default
        yield Parameter(name, _help(action), group, default, kind, regexes, choices)


def as_text(content: dict[str, Any]) -> str:
    """The content of a file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _options() -> Iterator[tuple[str, argparse.Action]]:
    parser = Parser(add_help=False)
    AmiOptions._add_argparse_args(parser)
    for group in parser._action_groups:
        for action in group._group_actions:
            yield group.title or _EVERYTHING_ELSE, action


def _label(name: str) -> str:
    words = [_WORDS.get(word, word) for word in name.split("_")]
    text = " ".join(words)
    return text[0].upper() + text[1:]


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    text = text[0].upper() + text[1:]
    if action.nargs == "+":
        text += ". Words with spaces between them, quoted as in a shell"
    return text + "."


if __name__ == "__main__":
    leave(main())
