//! NetworkUnavailable: what the scheduler is told of this node.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::rfc3339::Utc;

/// What is to be patched, if it stands otherwise: transitions alone are worth a write. `ready` is
/// why not, and whether that lasts; `stands` is the condition's status, None if there is none.
pub(super) fn patch(
    ready: Result<(), (&str, bool)>,
    stands: Option<&str>,
    now: SystemTime,
) -> Option<Value> {
    let (status, reason, message) = match ready {
        Ok(()) => ("False", "FlannelIsUp", "Flannel is running on this node"),
        Err((why, true)) => ("True", "WeftIsNotReady", why),
        // A restart is no outage.
        Err((_, false)) => return None,
    };
    let now = Utc::of(now).to_the_second().to_string();
    (stands != Some(status)).then(|| {
        json!({"status": {"conditions": [{
            "type": "NetworkUnavailable",
            "status": status,
            "reason": reason,
            "message": shortened(message, LONGEST),
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}})
    })
}

pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const LONGEST: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: Result<(), (&str, bool)>, stands: Option<&str>) -> Option<String> {
        let patch = patch(ready, stands, SystemTime::UNIX_EPOCH)?;
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["type"], "NetworkUnavailable");
        Some(condition["status"].as_str().unwrap().to_owned())
    }

    #[test]
    fn only_what_is_not_so_is_said() {
        assert_eq!(status(Ok(()), None).as_deref(), Some("False"));
        assert_eq!(status(Ok(()), Some("True")).as_deref(), Some("False"));
        assert_eq!(status(Ok(()), Some("False")), None);
        assert_eq!(status(Err(("x", false)), Some("False")), None);
        let lasting = status(Err(("x", true)), Some("False"));
        assert_eq!(lasting.as_deref(), Some("True"));
        assert_eq!(status(Err(("x", true)), Some("True")), None);
    }
}
