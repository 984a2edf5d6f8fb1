"""Training one adapter on one domain, and keeping the trained experts."""
