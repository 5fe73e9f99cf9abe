# Folders and files that the user names by variables: a ~ that came in quotes, or from a file of settings, no shell has expanded.
# Sourced, never run. The same of flags: sharelora/flags/paths.py.
for variable in ACCELERATE ADAPTER INIT MODEL OUT OUTPUT_DIR PYTHON SHARELORA_CACHE SHARELORA_DATA VENV WHEELS; do
  if [[ ${!variable:-} == \~ || ${!variable:-} == \~/* ]]; then printf -v "$variable" %s "$HOME${!variable#\~}"; fi
done
unset variable
