//! What fuzzing feeds: the readers of configurations and of what lies on disk.

use weft_cni::Call;

use crate::{
    conf::Plan,
    index,
    owner::{self, Holder, Owner},
};

/// A configuration's `ipam` section. An address of each set is of its set.
pub fn plan(call: &Call) {
    let Ok(plan) = Plan::of(call) else { return };
    for set in &plan.sets {
        assert!(!set.to_string().is_empty());
    }
}

/// A reservation's file.
pub fn reservation(content: &[u8]) {
    let key = owner::key(content);
    let mut padded = b" \n".to_vec();
    padded.extend_from_slice(content);
    padded.extend_from_slice(b"\r\n");
    assert_eq!(owner::key(&padded), key, "white space around means nothing");
    match owner::holder(content) {
        Holder::Attachment {
            container_id,
            ifname,
        } => assert!(Owner::attachment(container_id, ifname).holds(content)),
        Holder::Container(id) => assert!(Owner::legacy(id).holds(content)),
        Holder::Nobody | Holder::Other => {}
    }
}

/// The index: its header, and its slots.
pub fn index(bytes: &[u8]) {
    index::read_as_anything(bytes);
}
