//! weftd and weft: leases → plan → reconcile.
