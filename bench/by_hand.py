"""What a good engineer writes in an afternoon: confluent-kafka, orjson, cryptography.

One process is one lane. Keys and ciphers are made once, events are read in batches, one transaction a batch with the offsets inside.
Usage: by_hand.py BOOTSTRAP GROUP RAW OUT LANE LANES PARTITIONS
"""

import hmac
import os
import sys
import time
from base64 import urlsafe_b64encode

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BATCH = 5000
INTERVAL = 0.1

cipher = AESGCM(os.urandom(32))
index_key = os.urandom(32)


def seal(field, text):
    nonce = os.urandom(12)
    return "enc1." + urlsafe_b64encode(nonce + cipher.encrypt(nonce, text.encode(), field)).rstrip(b"=").decode()


def index(field, normal):
    return urlsafe_b64encode(hmac.digest(index_key, field + normal.encode(), "sha256")[:16]).rstrip(b"=").decode()


def protect(value):
    event = orjson.loads(value)
    customer = event["customer"]
    email, phone = customer["email"], customer["phone"]
    customer["email"] = seal(b"email", email)
    customer["email_bidx"] = index(b"email", email.strip().lower())
    customer["phone"] = seal(b"phone", phone)
    customer["phone_bidx"] = index(b"phone", "".join(filter(str.isdigit, phone)))
    customer["name"] = seal(b"name", customer["name"])
    customer["ssn"] = seal(b"ssn", customer["ssn"])
    customer["address"]["street"] = seal(b"street", customer["address"]["street"])
    return orjson.dumps(event)


def main(bootstrap, group, raw, out, lane, lanes, partitions):
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
    })
    producer = Producer({
        "bootstrap.servers": bootstrap,
        "transactional.id": f"{group}-{lane}",
        "compression.type": "lz4",
        "linger.ms": 5,
        "delivery.report.only.error": True,
    })
    producer.init_transactions()
    mine = [TopicPartition(raw, p) for p in range(int(lane), int(partitions), int(lanes))]
    consumer.assign(mine)
    while True:
        producer.begin_transaction()
        records, end = 0, time.monotonic() + INTERVAL
        while records < BATCH and time.monotonic() < end:
            for message in consumer.consume(1000, 0.01):
                if message.error():
                    raise KafkaException(message.error())
                producer.produce(
                    out,
                    protect(message.value()),
                    message.key(),
                    partition=message.partition(),
                    timestamp=message.timestamp()[1],
                )
                records += 1
            producer.poll(0)
        if records == 0:
            producer.abort_transaction()
            continue
        producer.send_offsets_to_transaction(consumer.position(mine), consumer.consumer_group_metadata())
        producer.commit_transaction()


if __name__ == "__main__":
    main(*sys.argv[1:])
