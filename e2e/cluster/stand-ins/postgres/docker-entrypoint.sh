#!/bin/bash
# Creates the database at the first start. POSTGRES_PASSWORD, POSTGRES_USER, POSTGRES_DB and the .sql files of
# /docker-entrypoint-initdb.d have the same effect as in the official image.
set -euo pipefail
[ "${1:0:1}" != - ] || set -- postgres "$@"
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown postgres: "$PGDATA"
  exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?set it to the password of the superuser}"
  export PGUSER=${POSTGRES_USER:-postgres}
  export PGDATABASE=${POSTGRES_DB:-$PGUSER}
  initdb --username "$PGUSER" --pwfile <(echo "$POSTGRES_PASSWORD") --auth-local trust --auth-host scram-sha-256
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  # No TCP port yet, so that clients do not take the database for ready.
  pg_ctl --wait --options "-c listen_addresses=''" start
  [ "$PGDATABASE" = postgres ] || createdb --maintenance-db postgres "$PGDATABASE"
  for file in /docker-entrypoint-initdb.d/*.sql; do
    [ ! -e "$file" ] || psql --set ON_ERROR_STOP=1 --file "$file"
  done
  pg_ctl --wait --mode fast stop
  unset PGUSER PGDATABASE
fi
exec "$@"
