//! A connection of the simulation: how it comes, what it is answered, and how it has its channels.

use std::collections::HashMap;
use std::sync::Arc;

use weir::core::hub::SeatId;
use weir::core::policy::Policy;
use weir::proto::dialect::json;
use weir::proto::event::Author;
use weir::proto::name::ClientId;
use weir::proto::push::Push;
use weir::proto::rate::Rate;
use weir::proto::ws::frame;
use weir::store::Store;

use crate::client::{Answer, Client, Way};
use crate::net::Socket;
use crate::spoken;
use crate::world::{CHANNELS, World};

/// A connection, seen from both ends.
pub(crate) struct Connection {
    pub(crate) shard: usize,
    pub(crate) seat: SeatId,
    pub(crate) author: Arc<Author>,
    pub(crate) client: Client,
    /// The client reads nothing for now.
    pub(crate) stalled: bool,
    /// The server has begun to close it.
    pub(crate) ending: bool,
    /// The channels and patterns it has, with what is to happen when it is slow.
    pub(crate) policies: HashMap<&'static str, Policy>,
    /// And how often it wants their events.
    pub(crate) rates: HashMap<&'static str, Option<Rate>>,
    /// When its queue was last seen at half or less.
    pub(crate) half_ms: u64,
}

impl Connection {
    /// How it has a channel, where it wants that less often: by name, or by the longest pattern.
    pub(crate) fn way(&self, channel: &str) -> Option<Way> {
        let prefix = |name: &str| name.strip_suffix('*').is_some_and(|p| channel.starts_with(p));
        let by_pattern = self.rates.iter().filter(|(name, _)| prefix(name));
        let longest = by_pattern.max_by_key(|(name, _)| name.len());
        match self.rates.get(channel) {
            Some(rate) => rate.map(|rate| (None, rate)),
            None => longest.and_then(|(name, rate)| rate.map(|rate| (Some(*name), rate))),
        }
    }
}

impl World {
    pub(crate) fn connect(&mut self, shard: usize) {
        self.clients += 1;
        let author = Arc::new(Author { client: ClientId(self.clients), user: None });
        let there = &mut self.shards[shard];
        let form = spoken::form(&mut self.rng);
        let seat = there.hub.open_in(form.0, Arc::clone(&author), self.now_ms);
        there.hub.seat(seat).unwrap().session.batch = form.1;
        there.net.sockets.insert(seat, Socket::new(self.rng.usize(1..2_000)));
        let (stalled, ending) = (false, false);
        let (policies, rates) = (HashMap::new(), HashMap::new());
        let (client, half_ms) = (Client::new(author.client, form), self.now_ms);
        self.connections.push(Connection {
            shard,
            seat,
            author,
            client,
            stalled,
            ending,
            policies,
            rates,
            half_ms,
        });
    }

    /// A connection has some channels on another way than before.
    pub(crate) fn rerate(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let heads = &self.shards[connection.shard].heads;
        for channel in CHANNELS {
            let Some(have) = self.store.find(channel) else { continue };
            let head = heads.get(&have.alias.0).copied().unwrap_or(0);
            let way = connection.way(channel);
            connection.client.throttles(have.alias.0, head, way);
        }
    }

    /// Puts an answer on the control lane, and writes it, or leaves it to a later turn.
    pub(crate) fn answer(&mut self, connection: usize, push: &Push<'_>, answer: Answer) {
        let connection = &mut self.connections[connection];
        let shard = &mut self.shards[connection.shard];
        let seat = shard.hub.seat(connection.seat).unwrap();
        let mut text = Vec::new();
        json::encode_push(push, &mut text);
        frame::push_text(&text, seat.outbox.control());
        connection.client.answers.push_back(answer);
        if self.rng.bool() {
            shard.flush(connection.seat, (&self.store, &self.mailboxes), self.now_ms);
        } else {
            shard.hub.mark_dirty(connection.seat);
        }
    }
}
