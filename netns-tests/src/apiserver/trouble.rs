//! How the server misbehaves, when it is told to.

use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// Answers everything so, with this many seconds in Retry-After.
    pub refuses: Option<(u16, Option<u32>)>,
    /// The same for requests whose target holds the text.
    pub refuses_some: Option<(&'static str, u16)>,
    /// Before it answers anything.
    pub slow: Duration,
    /// Reads requests and never answers.
    pub hangs: bool,
    /// The next event of each watch is cut in its middle, and the connection with it.
    pub cuts_events: bool,
    /// What is forgotten is answered with 410 at once, not with an event that says so.
    pub gone_at_once: bool,
    /// How often watches that allow it are told where they stand. None: each minute.
    pub bookmarks: Option<Duration>,
    /// Watches see nothing, not even bookmarks, as behind a connection that died unnoticed.
    pub silent_watches: bool,
    /// The most objects a page has, whatever is asked for.
    pub page: Option<usize>,
    /// Tokens of pages that were handed out are worth nothing any more.
    pub forgets_pages: bool,
    /// Metadata alone cannot be had: everything is answered in full.
    pub knows_no_metadata: bool,
    /// Everything is answered in JSON, as by what has no protobuf.
    pub knows_no_protobuf: bool,
    /// What mentions protobuf is answered with 406, as by a proxy that lets JSON through alone.
    pub refuses_protobuf: bool,
}
