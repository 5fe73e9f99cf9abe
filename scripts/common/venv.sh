# Virtual environments. Sourced after environment.sh, never run.   Reads: root, PYTHON.

# The first Python that is new enough: the one that PYTHON names, or what the system has.
new_enough_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "found no Python 3.11 or newer; need one; install it or set PYTHON=/path/to/python3.11"
}

# make_venv FOLDER REQUIREMENTS: an environment with pinned requirements and this project; reused while both stay the same.
make_venv() {
  local folder=$1 requirements=$2 interpreter stamp
  stamp=$folder/installed-$(basename "$requirements")
  interpreter=$(new_enough_python) || exit
  if [[ -x $folder/bin/python ]] && cmp -s "$stamp" <(contents_of_venv "$interpreter"); then return; fi
  echo "Installing $(basename "$requirements") into $folder (about 1.6 GB; minutes the first time) ..."
  rm -f "$stamp"
  "$interpreter" -m venv "$folder" ||
    fail "found no way to make $folder; need Python's venv module and space on the disk; see above, then start again"
  "$folder/bin/python" -m pip install --quiet --quiet --no-input --disable-pip-version-check \
    -r "$requirements" -e "$root" || fail "found errors in the installation; need every package; see above, then start again"
  # Whatever is installed includes requirements.txt.
  for stamp in "$stamp" "$folder/installed-requirements.txt"; do contents_of_venv "$interpreter" >"$stamp"; done
}

# contents_of_venv PYTHON: everything that decides what an environment holds, as one text.
contents_of_venv() {
  "$1" -V
  echo "$root"
  cat "$root"/requirements*.txt "$root/pyproject.toml"
}
