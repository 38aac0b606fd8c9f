"""Gives each valid request id to one request alone: one that comes again with another body is
refused, which no document can say."""

import re
import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if isinstance(body, dict):
        request_id = body.get("request_id")
        if isinstance(request_id, str) and re.fullmatch("[A-Za-z0-9_-]{1,64}", request_id):
            case.body = {**body, "request_id": uuid.uuid4().hex}
