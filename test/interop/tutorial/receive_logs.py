"""Prints log lines from a queue of its own, which goes when this program goes."""
from broker import connect

connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange='logs', exchange_type='fanout')
result = channel.queue_declare(queue='', exclusive=True)
queue_name = result.method.queue
channel.queue_bind(exchange='logs', queue=queue_name)


def callback(ch, method, properties, body):
    print(" [x] %s" % body.decode(), flush=True)


channel.basic_consume(queue=queue_name, on_message_callback=callback, auto_ack=True)
print(' [*] Waiting', flush=True)
channel.start_consuming()
