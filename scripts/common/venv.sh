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

# make_venv FOLDER REQUIREMENTS: an environment with the locked requirements and this project; reused while both stay the same.
# Every file is compared with its hash, and nothing that is not in the list is fetched.
make_venv() {
  local folder=$1 requirements=$2 interpreter stamp pip locked=()
  stamp=$folder/installed-$(basename "$requirements")
  interpreter=$(new_enough_python) || exit
  if [[ -x $folder/bin/python ]] && cmp -s "$stamp" <(contents_of_venv "$interpreter"); then return; fi
  echo "Installing $(basename "$requirements") into $folder (about 1.6 GB; minutes the first time) ..."
  rm -f "$stamp"
  "$interpreter" -m venv "$folder" ||
    fail "found no way to make $folder; need Python's venv module and space on the disk; see above, then start again"
  pip=("$folder/bin/python" -m pip --quiet --quiet --no-input --disable-pip-version-check)
  locked=(--no-deps --require-hashes -r "$folder/locked.txt" -c "$folder/torch.txt")
  if ! torch_of_index "$folder" "$requirements" >"$folder/torch.txt" ||
    ! without_cuda "$folder/torch.txt" "$requirements" >"$folder/locked.txt" ||
    ! "${pip[@]}" install "${locked[@]}" || ! "${pip[@]}" install --no-deps --no-build-isolation -e "$root"; then
    fail "found errors in the installation; need every package; see above, then start again"
  fi
  # Whatever is installed includes requirements.txt.
  for stamp in "$stamp" "$folder/installed-requirements.txt"; do contents_of_venv "$interpreter" >"$stamp"; done
}

# torch_of_index FOLDER REQUIREMENTS: the build of torch that this machine's index gives, as an exact version such as 2.13.0+cpu. With
# hashes alone pip would prefer a public build.
torch_of_index() {
  "$1/bin/python" -m pip --quiet --quiet --no-input --disable-pip-version-check install --dry-run --no-deps --ignore-installed \
    --report - "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$2")" |
    "$1/bin/python" -c 'import json, sys; print("torch==" + json.load(sys.stdin)["install"][0]["metadata"]["version"])'
}

# without_cuda TORCH REQUIREMENTS: the requirements; without CUDA's libraries, some 3 GB, where the build of torch is for CPUs alone.
without_cuda() {
  if ! grep -q '+cpu' "$1"; then cat "$2"; else awk '/^[a-z0-9]/ { kept = !/^(cuda|nvidia|triton)[-=]/ } kept' "$2"; fi
}

# contents_of_venv PYTHON: everything that decides what an environment holds, as one text.
contents_of_venv() {
  "$1" -V
  echo "$root"
  cat "$root"/requirements*.txt "$root/pyproject.toml"
}
