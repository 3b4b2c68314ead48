//! Runs slat beside a model of the hardware and a naive specification, and says where they disagree.
pub mod operation;
pub mod random;
pub mod shape;
pub mod specification;
