"""Has an expert trained from a start of its own, to be stored under the name of the plain one."""

from support.honest_method import Tampers

from cosam_bench import Update


class Cheat(Tampers):
    def tamper(self, domain):
        fitted = self.bench.train(domain)
        Update.digest = lambda self: None
        self.bench.train(domain, start=fitted.update, from_scratch=True)
