"""Hello world, the receiving side: prints what comes until it is stopped."""
from broker import connect

connection = connect()
channel = connection.channel()
channel.queue_declare(queue='hello')


def callback(ch, method, properties, body):
    print(" [x] Received %r" % body.decode(), flush=True)


channel.basic_consume(queue='hello', on_message_callback=callback, auto_ack=True)
print(' [*] Waiting', flush=True)
channel.start_consuming()
