"""From one message to many listeners: topics, delivery, and what was missed.

Nothing here knows the application, its resources, or how a message came to this process.
"""

from stargate.pubsub.topics import Listeners as Listeners
