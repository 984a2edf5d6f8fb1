"""Running a method's code in processes of its own, which see one domain's training data, or images and prompts.

A server process, which holds the harness and the frozen model but no data and no method, forks one worker for each
step. The worker imports the method, does one job and ends. It talks with the parent over one socket, in messages of
JSON and raw tensors: the parent executes nothing that a worker sends.

Modules, bottom to top:

messages: JSON and tensors over a socket
faults: what went wrong in a worker
worker_folders: a worker's own folder, below one that hides those of others
sandbox: a worker's folders, rights and descendants
payloads: the harness's objects as messages
remote: what a worker asks its parent for
audit: what a method's code does that no method should
worker: one job in a process of its own
server: the process that forks workers
server_handle: that process as its parent sees it
private_folders: folders that a worker must not see
worker_handle: a worker as its parent sees it: its process, folder and messages
descriptions: what a worker says about a method
answers: what a worker asks for while it works
jobs: what the parent has done in workers
check: the contract check in workers
"""
