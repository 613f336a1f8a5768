// One connection: HTTP/2 by nghttp2, and the calls of gRPC on it. Used on the transport's thread only.

#pragma once

#include <nghttp2/nghttp2.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "records.h"
#include "socket.h"

namespace native {

using Clock = std::chrono::steady_clock;
using Instant = Clock::time_point;

// What a connection and its calls may do. Times in milliseconds.
struct Limits {
  int64_t message_bytes;
  int64_t calls_per_connection;
  int64_t connections;
  int64_t handshake_ms;
  int64_t idle_ms;
  int64_t keepalive_ms;
  int64_t keepalive_timeout_ms;
  int64_t least_ping_ms;
  int64_t stalled_ms;
  int64_t linger_ms;
};

// Written by the transport's thread, read by any: each is right, but not all of one instant.
struct Counters {
  std::atomic<int64_t> connections{0};      // open now
  std::atomic<int64_t> turned_away{0};      // connections beyond the limit
  std::atomic<int64_t> refused_calls{0};    // calls beyond the limit of a connection: REFUSED_STREAM
  std::atomic<int64_t> bad_connections{0};  // ended because they broke HTTP/2 or TLS
  std::atomic<int64_t> too_many_pings{0};   // connections ended for that
  std::atomic<int64_t> calls{0};            // open now: not ended, or not sent to their end
};

class Connection;

struct Call {
  uint64_t id = 0;
  int32_t stream = 0;
  Connection* connection = nullptr;

  // Of the request.
  std::string path;
  std::vector<std::pair<std::string, std::string>> metadata;
  int64_t timeout_us = -1;
  size_t metadata_bytes = 0;
  bool is_grpc = false;
  bool compressed = false;  // grpc-encoding names a compression
  bool begun = false;       // its headers have ended; what follows are trailers
  bool told = false;        // the interpreter knows of it
  bool half_closed = false;
  bool end_told = false;
  Buffer input;             // bytes of messages that were not told yet
  size_t input_at = 0;      // where the next message begins
  size_t unconsumed = 0;    // bytes of the flow-control window that are not given back yet
  int64_t credit = 0;       // messages that may be told

  // Of the response.
  std::deque<std::string> output;  // messages with their prefix
  size_t output_at = 0;            // how much of the first is written
  bool headers_sent = false;
  bool deferred = false;  // nghttp2 waits for more output
  bool notify = false;
  bool finishing = false;
  bool taken = true;      // the client has taken bytes since `taken_at`
  Instant taken_at{};     // of a call that has ended
  std::vector<std::pair<std::string, std::string>> trailers;
};

// Where calls of all connections are found, and their events collected.
struct Shared {
  const Limits& limits;
  Counters& counters;
  std::unordered_map<uint64_t, Call*>& calls;
  uint64_t& last_call;
  Buffer& events;
};

class Connection {
 public:
  Connection(std::unique_ptr<Socket> socket, std::string peer, const Shared& shared, Instant now);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int descriptor() const { return socket_->descriptor(); }

  // What the socket has. False: the connection is over.
  bool read(Instant now);
  // Sends what waits, as far as the socket takes it. False: the connection is over.
  bool flush(Instant now);
  // What time brings: pings, limits of handshake and idleness. False: the connection is over.
  bool tick(Instant now);
  // No new calls; ends when the present ones have.
  void retire();
  // No more of anything: what waits is sent, and the connection ends when the client has left.
  void end(uint32_t code);

  // Whether to be told when the socket can be written to.
  bool wants_write() const { return socket_->wants_write(); }
  // The client asks for more than it takes: it is not heard until it does.
  bool crowded() const;
  // The client has begun to speak HTTP/2.
  bool begun() const { return shaken_; }

  // Commands.
  void grant(Call& call, int64_t messages);
  void send(Call& call, const uint8_t* message, size_t size);
  void notify(Call& call);
  void finish(Call& call, const uint8_t* fields, size_t size);

 private:
  friend struct Callbacks;

  void begin(int32_t stream);
  void take_header(Call& call, std::string_view name, std::string_view value);
  void headers_end(Call& call, bool end);
  void tell_call(Call& call);
  void refuse(Call& call, const char* grpc_status, const char* message);
  void take_data(Call& call, const uint8_t* data, size_t size);
  void tell_messages(Call& call);
  void give_back(Call& call);
  ssize_t fill(Call& call, uint8_t* to, size_t most, uint32_t* flags);
  void start_response(Call& call, bool trailers_only);
  void resume(Call& call);
  void forget(Call& call);
  void closed(int32_t stream, uint32_t code);
  void pinged();
  void end_stalled(Instant now);
  bool discard();
  void part(Instant now);
  void forget_calls();
  void count_broken();
  void event(Event kind, const Call& call, int64_t extra, const uint8_t* bytes, size_t size);
  bool write_some();
  std::vector<std::string> certificate_names() const;

  std::unique_ptr<Socket> socket_;
  std::string peer_;
  Shared shared_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<int32_t, std::unique_ptr<Call>> calls_;
  Buffer pending_;      // bytes that the socket has not taken yet
  size_t pending_at_ = 0;
  Instant since_, heard_, last_ping_, pinged_at_, quiet_since_, wrote_at_;
  bool wrote_ = false;  // since `wrote_at_`
  bool shaken_ = false;  // the client's first SETTINGS have come
  bool ping_open_ = false;
  bool data_since_ping_ = true;
  int ping_strikes_ = 0;
  bool broken_ = false;  // counted as such
  bool lingering_ = false;  // all is sent: what still comes is dropped until the client has left
  Instant lingers_since_;
  size_t discarded_ = 0;  // bytes that came since
};

}  // namespace native
