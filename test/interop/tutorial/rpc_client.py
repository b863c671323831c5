"""Asks the server for Fibonacci numbers: rpc_client.py queue|direct N...

`queue` takes the answers from a queue of its own, `direct` by RabbitMQ's direct reply-to.
"""
import sys
import uuid

import pika

from broker import connect


class FibonacciRpcClient(object):
    def __init__(self, way):
        self.connection = connect()
        self.channel = self.connection.channel()
        self.response = None
        self.corr_id = None
        if way == 'direct':
            self.callback_queue = 'amq.rabbitmq.reply-to'
        else:
            result = self.channel.queue_declare(queue='', exclusive=True)
            self.callback_queue = result.method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)

    def on_response(self, ch, method, props, body):
        if self.corr_id == props.correlation_id:
            self.response = body

    def call(self, n):
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(exchange='',
                                   routing_key='rpc_queue',
                                   properties=pika.BasicProperties(
                                       reply_to=self.callback_queue,
                                       correlation_id=self.corr_id),
                                   body=str(n))
        while self.response is None:
            self.connection.process_data_events(time_limit=None)
        return int(self.response)


client = FibonacciRpcClient(sys.argv[1])
for argument in sys.argv[2:]:
    print(" [.] Got %d" % client.call(int(argument)), flush=True)
client.connection.close()
