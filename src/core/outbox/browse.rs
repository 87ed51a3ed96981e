//! The newest events of all channels of a pattern, on their way to one who has subscribed to it: a
//! list of channels that is read part by part, and of some of them the events that are shown next.

use std::collections::VecDeque;
use std::rc::Rc;

use super::Outbox;
use super::item::Item;
use super::past::{Recall, Source};
use super::tally::Place;
use crate::core::account::Charge;
use crate::core::browse::{Bookmark, Shelf};
use crate::core::run::{Pin, Press};
use crate::proto::name::{self, Alias, ChannelName};

/// Channels looked at for one page.
const CHANNELS_A_PAGE: usize = 64;

/// A page has so many leaves: a write takes no more.
const LEAVES_A_PAGE: usize = 31;

/// No leaf is added to a page of so many bytes.
const PAGE_BYTES: usize = 64 * 1024;

/// What is left to be shown.
#[derive(Debug)]
pub struct Browse {
    prefix: Box<str>,
    /// What it had before, by name and by patterns: of that nothing is shown.
    had: Had,
    /// The next channels, and where the list goes on behind them.
    channels: VecDeque<(ChannelName, Alias)>,
    next: Option<Bookmark>,
    /// Of the first of them, the events up to this offset were read.
    after: u64,
    page: Vec<Leaf>,
    /// The page may be shown when so many events of the shard's mail were handed around.
    ready_at: u64,
    /// Its own memory, and that of the list.
    charge: Charge,
}

/// What a seat had before it subscribed to a pattern, of the channels of that.
#[derive(Debug)]
pub struct Had {
    /// Both in order: each channel that is read is looked up.
    names: Vec<Alias>,
    prefixes: Vec<Box<str>>,
}

impl Had {
    /// It had these by name, and all of these prefixes.
    pub fn new(mut names: Vec<Alias>, mut prefixes: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        prefixes.sort_unstable();
        Self { names, prefixes }
    }

    fn has(&self, channel: &ChannelName, alias: Alias) -> bool {
        let is_prefix =
            |prefix: &str| self.prefixes.binary_search_by(|other| (**other).cmp(prefix)).is_ok();
        self.names.binary_search(&alias).is_ok()
            || !self.prefixes.is_empty() && name::prefixes(channel.as_str()).any(is_prefix)
    }

    fn bytes(&self) -> usize {
        let prefixes = self.prefixes.iter().map(|prefix| prefix.len() + size_of::<Box<str>>());
        self.names.capacity() * size_of::<Alias>() + prefixes.sum::<usize>()
    }
}

/// Newest events of one channel, on a page.
#[derive(Debug)]
pub struct Leaf {
    /// Its name.
    pub channel: ChannelName,
    /// Its number.
    pub alias: Alias,
    /// The events.
    pub pin: Rc<Pin>,
    /// Those after this offset are meant,
    pub after: u64,
    /// up to this one, and not those that come as they are published.
    pub upto: u64,
}

impl Browse {
    /// From the first channel of a prefix on, but for those that were had before.
    pub fn new(prefix: Box<str>, had: Had, mut charge: Charge) -> Self {
        let next = Some(Bookmark::default());
        charge.set(size_of::<Recall>() + had.bytes());
        let (channels, page) = (VecDeque::new(), Vec::new());
        Self { prefix, had, channels, next, after: 0, page, ready_at: 0, charge }
    }

    /// Memory that the page takes, as a share of what others have too, and that of the list.
    pub(super) fn share_bytes(&self) -> usize {
        let share = |leaf: &Leaf| leaf.pin.bytes() / Rc::strong_count(&leaf.pin);
        self.charge.bytes() + self.page.iter().map(share).sum::<usize>()
    }

    pub(super) fn is_of(&self, prefix: &str) -> bool {
        *self.prefix == *prefix
    }

    /// Reads the next page, where there is none; `loaded` events of the shard's mail were loaded
    /// so far. `false` when there is nothing more.
    pub fn read(&mut self, shelf: &impl Shelf, press: &mut Press, loaded: u64) -> bool {
        if !self.page.is_empty() {
            return true;
        }
        if self.channels.is_empty() {
            let Some(from) = self.next else { return false };
            let listing = shelf.list(&self.prefix, from);
            (self.channels, self.next) = (listing.channels.into(), listing.next);
            let list = self.channels.capacity() * size_of::<(ChannelName, Alias)>();
            self.charge.set(size_of::<Recall>() + self.had.bytes() + list);
        }
        let mut bytes = 0;
        for _ in 0..CHANNELS_A_PAGE {
            let Some((channel, alias)) = self.channels.front() else { break };
            if self.page.len() >= LEAVES_A_PAGE || bytes >= PAGE_BYTES {
                break;
            }
            let had = self.had.has(channel, *alias);
            let leaf = if had { None } else { shelf.leaf(channel, *alias, self.after) };
            let Some(leaf) = leaf else {
                self.after = 0;
                self.channels.pop_front();
                continue;
            };
            let after = std::mem::replace(&mut self.after, leaf.chunk.last());
            let pin = press.pin(leaf.chunk);
            bytes += pin.bytes();
            let (channel, alias) = (channel.clone(), *alias);
            self.page.push(Leaf { channel, alias, pin, after, upto: leaf.head });
        }
        // After the events were read: those of them that are not loaded yet are waited for.
        self.ready_at = loaded + shelf.mail();
        true
    }

    /// The page, when so many events were handed around; else when that is.
    pub fn take_page(&mut self, handed: u64) -> Result<Vec<Leaf>, u64> {
        if self.ready_at > handed && !self.page.is_empty() {
            return Err(self.ready_at);
        }
        Ok(std::mem::take(&mut self.page))
    }
}

impl Outbox {
    /// Puts the newest events of all channels of a pattern behind what is queued.
    pub fn browse(&mut self, browse: Browse) {
        self.recalls += 1;
        self.push_back(Item::Recall(Box::new(Recall(Source::Prefix(browse)))));
    }

    /// What is to be written next, where that is of a pattern.
    pub fn browsed(&mut self) -> Option<&mut Browse> {
        match self.data.front_mut() {
            Some(Item::Recall(recall)) => match &mut recall.0 {
                Source::Prefix(browse) => Some(browse),
                Source::Channel { .. } => None,
            },
            _ => None,
        }
    }

    /// All that [`Outbox::browsed`] has was shown.
    pub fn end_browsed(&mut self) {
        if self.browsed().is_some() {
            self.recalls -= 1;
            self.pop_front();
        }
    }

    /// Nothing more is shown of the pattern with that prefix, or of any.
    pub fn end_browse(&mut self, prefix: Option<&str>) {
        if self.recalls == 0 {
            return;
        }
        let gone = |browse: &Browse| prefix.is_none_or(|prefix| browse.is_of(prefix));
        let before = self.data.len();
        self.data.retain(|item| {
            let browse = if let Item::Recall(recall) = item { recall.browse() } else { None };
            !browse.is_some_and(gone)
        });
        if self.data.len() < before {
            self.strip();
            self.recount();
        }
    }

    /// The first offset of a channel that waits in the lane, or stands there as lost.
    pub fn first_of(&mut self, alias: Alias) -> Option<u64> {
        if self.data.len() <= 1 {
            // What is in front is being shown.
            return None;
        }
        let tally = self.tally();
        let (first, lag) = (tally.first(alias), tally.lag(alias));
        let at = |place: Option<Place>| place.and_then(|place| self.data.get(self.index(place)?));
        let first = at(first).and_then(Item::begins);
        let lag = at(lag).and_then(Item::begins);
        first.into_iter().chain(lag).min()
    }
}
