//! Where veilstream's keys come from and live. No Kafka, no HTTP server.
