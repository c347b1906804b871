"""The HTTP front. In the order in which a request meets them:

server, edge          bytes: limits on heads, bodies, connections and time, in uvicorn's protocol class
middleware, keys      request id, clocks and log line; Host rule; API key
app                   routes, and the answer to what fits none
chat, completions     the two generation routes, from top to bottom; models, health, metrics are the others
body, schemas         JSON to a checked wire model
parameters, messages  names that no field has; chat messages to what the template reads
prompts, convert      token ids; sampling parameters and limits: a request for the pool
generate, answer      the pool's events to pieces of text per choice
respond, sse          whole or as a stream, whoever leaves or fails
chat_answer, completion_answer, logprobs, identity    pieces to OpenAI's JSON
meter, record         the request's clocks, and the one record it leaves
http_errors           exceptions to a status and OpenAI's error body
front, serving        what all of it shares; run, drain, stop
"""
