#!/bin/sh
# Dumps both databases into $BACKUP_DIR/TIME, and keeps the newest $BACKUPS_KEPT of these directories.
set -eu
umask 077

rm -rf "$BACKUP_DIR"/*.part
time=$(date -u +%Y%m%dT%H%M%SZ)
part=$BACKUP_DIR/$time.part
mkdir "$part"
# The outbox first: then every item that it calls delivered is in Label Studio's dump too.
PGPASSWORD=$OUTBOX_DB_PASSWORD pg_dump --username outbox --format custom --file "$part/outbox.dump" outbox
PGPASSWORD=$LABEL_STUDIO_DB_PASSWORD \
  pg_dump --username labelstudio --format custom --file "$part/labelstudio.dump" labelstudio
mv "$part" "$BACKUP_DIR/$time"
find "$BACKUP_DIR" -mindepth 1 -maxdepth 1 -name '*Z' | sort | head -n "-$BACKUPS_KEPT" | xargs -r rm -r --
echo "Backed up to $BACKUP_DIR/$time"
