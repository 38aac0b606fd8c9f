"""StringEncryptedType of sqlalchemy-utils: `KEY PADDING`, one JSON string a line."""

import json
import sys

from sqlalchemy import Unicode
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, StringEncryptedType

sealed = StringEncryptedType(Unicode, sys.argv[1], AesEngine, sys.argv[2])
for line in sys.stdin:
    print(json.dumps(sealed.process_bind_param(json.loads(line), None)))
