#!/bin/sh
# Replaces what both databases hold by the backup $BACKUP, or by the newest one. Run again after a failure.
set -eu

backup=$BACKUP_DIR/${BACKUP:-$(find "$BACKUP_DIR" -mindepth 1 -maxdepth 1 -name '*Z' -printf '%f\n' | sort | tail -n 1)}
if [ ! -f "$backup/labelstudio.dump" ] || [ ! -f "$backup/outbox.dump" ]; then
  echo "Expected a backup in $backup, but there is none. Set BACKUP to one of:" >&2
  find "$BACKUP_DIR" -mindepth 1 -maxdepth 1 -name '*Z' -printf '  %f\n' | sort >&2
  exit 1
fi

restore() {
  psql --username "$1" --dbname "$1" --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --command 'SET client_min_messages = warning' --command 'DROP OWNED BY CURRENT_USER CASCADE'
  pg_restore --username "$1" --dbname "$1" --no-owner --single-transaction --exit-on-error "$backup/$1.dump"
}

export PGPASSWORD="$LABEL_STUDIO_DB_PASSWORD"
restore labelstudio
export PGPASSWORD="$OUTBOX_DB_PASSWORD"
restore outbox
# Items may have reached Label Studio between the two dumps: the dispatcher looks those in "sending" up before it
# sends them again.
psql --username outbox --dbname outbox --no-psqlrc --quiet --set ON_ERROR_STOP=1 --command "
  DO \$\$ BEGIN
    IF to_regclass('review_items') IS NOT NULL THEN
      UPDATE review_items SET state = 'sending' WHERE state = 'pending';
    END IF;
  END \$\$"
echo "Restored from $backup"
