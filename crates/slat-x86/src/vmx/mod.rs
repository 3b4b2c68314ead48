//! Intel VMX.
