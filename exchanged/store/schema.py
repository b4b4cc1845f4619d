"""The tables of the SQLite store, and how an older file becomes a newer one."""

MIGRATIONS = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE grants (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    outcome TEXT,
    cluster TEXT NOT NULL,
    policy TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    job TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    due_at INTEGER,  -- when it wants attention: at its expiry, at once when it has ended; never again when withdrawn
    decision TEXT NOT NULL,
    credential_id TEXT NOT NULL DEFAULT '',
    token_digest BLOB,
    objects TEXT NOT NULL DEFAULT '[]',
    ended TEXT NOT NULL DEFAULT ''
);
-- a short beginning finds the row as well, and of random values fewer pages are written
CREATE INDEX grants_token ON grants (substr(token_digest, 1, 6)) WHERE token_digest IS NOT NULL;
CREATE INDEX grants_due ON grants (cluster, due_at);
CREATE INDEX grants_job ON grants (issuer, job) WHERE job <> '';
CREATE INDEX grants_subject ON grants (issuer, subject);

-- live grants by subject; the row ('', '') counts them all, ('', 'backlog') the ended that are to be withdrawn
CREATE TABLE live (
    issuer TEXT NOT NULL, subject TEXT NOT NULL, grants INTEGER NOT NULL, PRIMARY KEY (issuer, subject)
) WITHOUT ROWID;
INSERT INTO live VALUES ('', '', 0), ('', 'backlog', 0);

-- by the token's own end first: what is used at about the same time lies together, and is forgotten together
CREATE TABLE used (
    expires_at INTEGER NOT NULL, issuer TEXT NOT NULL, token TEXT NOT NULL, grant_id TEXT NOT NULL,
    PRIMARY KEY (expires_at, issuer, token)
) WITHOUT ROWID;

CREATE TABLE revoked_subjects (
    issuer TEXT NOT NULL, subject TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (issuer, subject)
) WITHOUT ROWID;

CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    grant_id TEXT,
    request_id TEXT,
    body TEXT NOT NULL
);
CREATE INDEX records_grant ON records (grant_id) WHERE grant_id IS NOT NULL;
CREATE TRIGGER records_stay BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records are not changed'); END;
CREATE TRIGGER records_remain BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'records are not deleted'); END;
""",
)
"""One script a version; a file's version is SQLite's user_version."""
