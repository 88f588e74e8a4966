#!/bin/sh
# Makes .env of .env.example, with a new value for every secret: sh deploy/compose/new-env.sh [FILE]
set -eu
cd "$(dirname "$0")/../.."
file=${1:-.env}
if [ -e "$file" ]; then
  echo "$file is there already, and its secrets are those of your data. To begin anew: docker compose down --volumes, and away with $file." >&2
  exit 1
fi
umask 077
new_secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
while IFS= read -r line; do
  case $line in
    [A-Z]*=) echo "$line$(new_secret)" ;;
    *) echo "$line" ;;
  esac
done <.env.example >"$file"
echo "$file is made; only you can read it. Next: docker compose up"
