-- Run once, by the image, when the data directory is new. A role and a database each for Label Studio and the outbox.
\getenv label_studio_password LABEL_STUDIO_DB_PASSWORD
\getenv outbox_password OUTBOX_DB_PASSWORD
CREATE ROLE labelstudio LOGIN PASSWORD :'label_studio_password';
CREATE ROLE outbox LOGIN PASSWORD :'outbox_password';
CREATE DATABASE labelstudio OWNER labelstudio;
CREATE DATABASE outbox OWNER outbox;
REVOKE CONNECT ON DATABASE labelstudio, outbox, postgres FROM PUBLIC;
