#!/bin/sh
# Makes once what the containers of docker-compose.yml need, in the current folder: keys, the
# auditor's key, and a certificate for localhost. What is there stays as it is.
set -eu
umask 077

[ -e keys/keys.db ] || veilstream keys init --keys keys

# Anyone who has verifier.key can check the audit log.
# Beyond trying out it belongs on another machine.
if [ ! -e audit/audit.pub ]; then
  mkdir -p audit verifier
  rm -f verifier/verifier.key
  veilstream audit keygen --out verifier/verifier.key > audit/audit.pub.new
  mv audit/audit.pub.new audit/audit.pub
fi

# Beyond trying out the certificate is one of your own authority.
if [ ! -e tls/server.pem ]; then
  mkdir -p tls
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -subj "/CN=veilstream first steps" -keyout tls/ca.key -out tls/ca.pem 2> /dev/null
  openssl req -x509 -CA tls/ca.pem -CAkey tls/ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
    -nodes -days 365 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout tls/server.key -out tls/server.new 2> /dev/null
  rm tls/ca.key
  mv tls/server.new tls/server.pem
fi
