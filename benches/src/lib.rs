//! What the measuring programs have in common: figures and what they say, the machine they were
//! taken on, plots; and the packet paths between two nodes, side by side.
pub mod bars;
pub mod drawing;
pub mod machine;
pub mod path;
pub mod report;
pub mod results;
