"""Where the programs find the broker: the one thing that differs from machine to machine."""
import os

import pika


def connect(port=None):
    credentials = pika.PlainCredentials(os.environ.get('BROKER_USER', 'guest'), os.environ.get('BROKER_PASSWORD', 'guest'))
    return pika.BlockingConnection(pika.ConnectionParameters(
        host=os.environ.get('BROKER_HOST', '127.0.0.1'),
        port=int(port or os.environ.get('BROKER_PORT', '5672')),
        credentials=credentials))
