"""Who a client is and what it may do: logins, certificates, rules. Decides; waits for nothing and opens nothing."""
