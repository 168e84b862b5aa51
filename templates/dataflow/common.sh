# Of build, stage and run: their options, settings, and how they do something.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
DRY_RUN=
SETTINGS=${SETTINGS:-templates/dataflow/settings}

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Says what is done, then does it. With --dry-run it only says.
step() {
  printf '+ %s\n' "$(printf '%q ' "$@" | sed 's/ $//')" >&2
  [[ -n $DRY_RUN ]] || "$@"
}

read_settings() {
  [[ -r $SETTINGS ]] || fail "$SETTINGS is missing; copy templates/dataflow/settings.example to it, or name another file with SETTINGS=FILE"
  # shellcheck disable=SC1090
  source "$SETTINGS"
  local name
  for name in PROJECT REGION REPOSITORY BUCKET; do
    [[ -n ${!name:-} ]] || fail "$SETTINGS does not set $name"
  done
  VERSION=$("$PYTHON" -c 'import ami_beam; print(ami_beam.__version__)')
  TAG=${TAG:-$VERSION}
  IMAGE=$REGION-docker.pkg.dev/$PROJECT/$REPOSITORY/ami-beam:$TAG
  SPEC=gs://$BUCKET/templates/ami-beam-$TAG.json
}
