CREATE TABLE "customers" (
    "record_key" text COLLATE "C" PRIMARY KEY,
    "type" text,
    "customer_id" bigint,
    "customer_email" text COLLATE "C" CHECK ("customer_email" ~ '^vs1[.][A-Za-z0-9_-]{91,}$'),
    "customer_email_bidx" text COLLATE "C" CHECK ("customer_email_bidx" ~ '^[0-9]+~[A-Za-z0-9_-]+$'),
    "customer_ssn" text COLLATE "C" CHECK ("customer_ssn" ~ '^vs1[.][A-Za-z0-9_-]{91,}$'),
    "customer_ssn_bidx" text COLLATE "C" CHECK ("customer_ssn_bidx" ~ '^[0-9]+~[A-Za-z0-9_-]+$'),
    "customer_phone" text COLLATE "C" CHECK ("customer_phone" ~ '^vs1[.][A-Za-z0-9_-]{91,}$'),
    "customer_phone_bidx" text COLLATE "C" CHECK ("customer_phone_bidx" ~ '^[0-9]+~[A-Za-z0-9_-]+$'),
    "customer_dob" text,
    "customer_address" text COLLATE "C" CHECK ("customer_address" ~ '^vs1[.][A-Za-z0-9_-]{91,}$')
);
CREATE INDEX ON "customers" ("customer_email_bidx");
CREATE INDEX ON "customers" ("customer_ssn_bidx");
CREATE INDEX ON "customers" ("customer_phone_bidx");
