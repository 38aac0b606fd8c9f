"""Fernet by Python's cryptography: `seal KEYS` or `open KEYS`, one JSON string a line."""

import json
import sys

from cryptography.fernet import Fernet, MultiFernet

with open(sys.argv[2], encoding="ascii") as keys:
    fernet = MultiFernet([Fernet(line.strip()) for line in keys if line.strip()])
for line in sys.stdin:
    text = json.loads(line)
    if sys.argv[1] == "seal":
        print(json.dumps(fernet.encrypt(text.encode("utf-8")).decode("ascii")))
    else:
        print(json.dumps(fernet.decrypt(text.encode("ascii")).decode("utf-8")))
