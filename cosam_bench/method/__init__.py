"""The interface of a method, and what the harness provides to one.

Modules, bottom to top:

card: what a method says about itself
training_domain: data that is open only while a method learns
cost_meter: seconds and peak memory of learning
frozen_base: whether a method has left the frozen model as it was
places: lines of a method's own code
returned: the types of what a method returns and keeps
workbench: the frozen model and the protocol's training
trial: small workbenches and domains to try a method on
interface: Method, MergingMethod and State
merge_rules: a function as a method whose settings are its parameters
contract_trial: one pass over three small domains, and the faults seen
contract_check: whether a method keeps the contract
edited_modules: modules that were edited while this process runs
offered_methods: the methods that installed packages offer
registry: methods by name, module or file
module_files: where modules are, and which belong to a rule
syntax: what a Python file means
rule_digest: the hash of a method's own code
source_reading: a method's card and settings, read without importing it
package_template: the skeleton of a method as a package
"""

from cosam_bench._moved import forwarding

__getattr__ = forwarding("cosam_bench.method", "cosam_bench.method.interface")
