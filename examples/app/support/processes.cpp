#include "support/processes.hpp"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "smooseg/detail/check.hpp"
#include "support/error_text.hpp"
#include "support/key_value_store.hpp"
#include "support/process_group.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

/// Environment variables that tell one thing, the first that is set counts.
using Variables = std::vector<const char*>;

struct Variable {
  const char* name = "";
  std::string value;  // empty: none is set
};

Variable first_set(const Variables& names) {
  for (const char* name : names) {
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != '\0') return {name, value};
  }
  return {};
}

/// A number from `lowest` to `highest`, or `otherwise` where no variable is set.
int64_t number(const Variables& names, int64_t lowest, int64_t highest, int64_t otherwise) {
  const Variable found = first_set(names);
  if (found.value.empty()) return otherwise;
  const bool digits = found.value.size() < 10 && std::all_of(found.value.begin(), found.value.end(), ::isdigit);
  const int64_t value = digits ? std::stoll(found.value) : lowest - 1;
  if (value < lowest || value > highest) {
    throw std::runtime_error(std::string(found.name) + ": expected a number from " + std::to_string(lowest) + " to " +
                             std::to_string(highest) + ", got '" + found.value + "'");
  }
  return value;
}

}  // namespace

ProcessPlace process_place() {
  constexpr int64_t kMost = 1 << 20;
  ProcessPlace place;
  // SLURM_NTASKS stands in batch scripts too, where no other process was started.
  const Variables sizes{"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"};
  place.size = number(sizes, 1, kMost, 1);
  if (place.size == 1) return place;
  const std::string started = std::string(first_set(sizes).name) + " says " + std::to_string(place.size);
  place.rank = number({"RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"}, 0, place.size - 1, -1);
  if (place.rank < 0) throw std::runtime_error("RANK: expected the number of this process, since " + started);
  const std::string address = first_set({"MASTER_ADDR"}).value;
  // "2(x3),1": tasks on each machine; those on this one are not told apart, but whether it is the only one.
  const std::string slurm = first_set({"SLURM_STEP_TASKS_PER_NODE"}).value;
  const int64_t on_slurm = slurm == std::to_string(place.size) ? place.size : 1;
  place.local_size = number({"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"}, 1, place.size,
                            address == place.address || address == "localhost" ? place.size : on_slurm);
  place.local_rank = number({"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}, 0, place.size - 1,
                            place.local_size == place.size ? place.rank : 0);
  if (address.empty() && place.local_size < place.size) {
    throw std::runtime_error("MASTER_ADDR: expected the name of process 0's machine, since " + started +
                             " processes and not all are on this one");
  }
  if (!address.empty()) place.address = address;
  // At MASTER_PORT itself torchrun may listen, whose store need not be of this LibTorch's release.
  const bool is_taken = first_set({"TORCHELASTIC_USE_AGENT_STORE"}).value == "True";
  place.port = static_cast<uint16_t>(number({"MASTER_PORT"}, 1, 65534, place.port) + (is_taken ? 1 : 0));
  return place;
}

namespace {

using Bytes = Processes::Bytes;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::seconds;

constexpr Seconds kJoinTime{120};       // for the others to start
constexpr Seconds kBeatInterval{1};     // between signs of life
constexpr Seconds kFarewellTime{5};     // for the others to hear why this process ends
constexpr auto kFailed = "failed";      // key of what ended the first process that failed
constexpr auto kDeparted = "departed";  // key of the number of processes that need no server any more

std::string brief_text(const std::exception& e) {
  const std::string text = text_of(e);
  return text.substr(0, text.find('\n'));
}

}  // namespace

/// The store, and a thread that writes signs of life into it.
class Processes::Connection {
 private:
  /// A process's last sign, and when it was seen.
  struct Life {
    int64_t beats;
    Clock::time_point seen;
  };

 public:
  explicit Connection(const ProcessPlace& place)
      : place_(place),
        silence_(number({"SMOOSEG_PROCESS_TIMEOUT"}, 2, 86400, 30)),
        server_("process 0 at " + place.address + ":" + std::to_string(place.port)),
        serves_(place.rank == 0) {
    if (!has_stores()) {
      throw std::runtime_error("WORLD_SIZE: " + std::to_string(place.size) +
                               " processes were started, but this LibTorch was built without c10d, through which they "
                               "talk: start one alone, or build smooseg with another LibTorch");
    }
    std::signal(SIGPIPE, SIG_IGN);  // a connection that breaks is an error, not the end
    try {
      store_ = open_store(place.address, place.port, serves_, kJoinTime);
    } catch (const std::exception& e) {
      throw std::runtime_error(
          serves_ ? "MASTER_PORT: cannot listen at port " + std::to_string(place.port) + " for the other processes (" +
                        brief_text(e) + "); if another run has it, choose another"
                  : "MASTER_ADDR, MASTER_PORT: cannot reach " + server_ + " (" + brief_text(e) + ")");
    }
    heart_ = std::thread([this] { beat(); });
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { stop(); }

  /// Watches over processes while something is awaited from them.
  class Vigil {
   public:
    Vigil(Connection& connection, const std::vector<int64_t>& ranks) : connection_(connection) {
      for (const int64_t rank : ranks) lives_[rank] = {-1, Clock::now()};
    }

    /// Looks once a beat. @throws ProcessLost where a process has failed, or one of these shows no life.
    void look() {
      if (Clock::now() < next_) return;
      connection_.look_for_failure();
      for (auto& [rank, life] : lives_) connection_.look_after(rank, life);
      next_ = Clock::now() + kBeatInterval;
    }

   private:
    Connection& connection_;
    std::map<int64_t, Life> lives_;
    Clock::time_point next_ = Clock::now() + kBeatInterval;
  };

  /// How long a process may give no sign of life.
  Seconds silence() const { return silence_; }

  /// Begins a call that all processes make.
  void begin() { call_ = "call" + std::to_string(++calls_) + "/"; }

  /// Tells the others something within a call.
  void tell(const Bytes& value) {
    told_.push_back(key_of(place_.rank));
    talk([&] { store_->set(told_.back(), value); });
  }

  /// What another process tells within this call.
  Bytes hear(int64_t from) {
    constexpr std::chrono::microseconds kShort{50}, kLong{1000};
    auto pause = kShort;
    Vigil vigil(*this, {from});
    const std::string key = key_of(from);
    while (!talk([&] { return store_->has(key); })) {
      vigil.look();
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, kLong);
    }
    return talk([&] { return store_->get(key); });
  }

  /// After a call that no process ends before all have begun it: what was told in earlier ones has been read.
  void forget() {
    const std::string last = told_.back();
    told_.pop_back();
    for (const std::string& key : told_) talk([&] { store_->remove(key); });
    told_ = {last};
  }

  /// @throws ProcessLost where a process has said that it fails.
  void look_for_failure() {
    if (!talk([&] { return store_->has(kFailed); })) return;
    const Bytes why = talk([&] { return store_->get(kFailed); });
    throw ProcessLost(std::string(why.begin(), why.end()));
  }

  void fail(const std::string& why) noexcept {
    try {
      if (!store_->has(kFailed)) store_->set(kFailed, Bytes(why.begin(), why.end()));
      depart();
    } catch (const std::exception&) {  // the server is gone, so nobody could hear it
    }
    stop();
  }

  /// The one that serves does so until the others need it no longer.
  void depart() {
    store_->add(kDeparted, 1);
    const auto end = Clock::now() + kFarewellTime;
    while (serves_ && store_->add(kDeparted, 0) < place_.size && Clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  /// No more signs of life.
  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    stop_.notify_all();
    if (heart_.joinable()) heart_.join();
  }

 private:
  std::string key_of(int64_t rank) const { return call_ + std::to_string(rank); }
  std::string beats_of(int64_t rank) const { return "beats/" + std::to_string(rank); }

  /// Calls f(), which needs the server.
  template <class F>
  auto talk(const F& f) -> decltype(f()) {
    try {
      return f();
    } catch (const std::exception& e) {
      throw ProcessLost("lost the connection to " + server_ + ": did it end? (" + brief_text(e) + ")");
    }
  }

  void look_after(int64_t rank, Life& life) {
    const int64_t beats = talk([&] { return store_->add(beats_of(rank), 0); });
    if (beats != life.beats) {
      life = {beats, Clock::now()};
    } else if (Clock::now() - life.seen > silence_) {
      throw ProcessLost("process " + std::to_string(rank) + " of " + std::to_string(place_.size) +
                        " was not heard of for " + std::to_string(silence_.count()) +
                        " seconds: was it killed, or its machine lost?");
    }
  }

  void beat() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stopped_) {
      lock.unlock();
      try {
        store_->add(beats_of(place_.rank), 1);
      } catch (const std::exception&) {  // whoever talks next says so
        return;
      }
      lock.lock();
      stop_.wait_for(lock, kBeatInterval, [this] { return stopped_; });
    }
  }

  const ProcessPlace place_;
  const Seconds silence_;
  const std::string server_;
  const bool serves_;
  std::unique_ptr<KeyValueStore> store_;
  int64_t calls_ = 0;
  std::string call_;               // what the keys of this call begin with
  std::vector<std::string> told_;  // keys that this process has set
  std::thread heart_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopped_ = false;
};

/// The groups through which tensors go from process to process, where through the store all would pass process 0.
class Processes::Groups {
 public:
  Groups(const ProcessPlace& place, Connection& connection)
      : meeting_{place.address, place.port, place.rank, place.size}, connection_(connection) {
    const std::string way = first_set({"SMOOSEG_EXCHANGE"}).value;
    if (!way.empty() && way != "group" && way != "store") {
      throw std::runtime_error("SMOOSEG_EXCHANGE: expected group or store, got '" + way + "'");
    }
    only_store_ = way == "store";
    if (!only_store_) host_ = joined(join_gloo);
  }

  /// The group for such a tensor; null: it goes through the store.
  ProcessGroup* group_for(const Tensor& tensor) {
    if (tensor.is_cuda() && !device_ && !only_store_) device_ = joined(join_nccl);
    for (const auto& group : {host_.get(), device_.get()}) {
      if (group != nullptr && group->takes(tensor)) return group;
    }
    return nullptr;
  }

  /// Calls f(watch), a call of a group.
  template <class F>
  Tensor call(const F& f) {
    std::vector<int64_t> others;
    for (int64_t r = 0; r < meeting_.size; ++r) {
      if (r != meeting_.rank) others.push_back(r);
    }
    Connection::Vigil vigil(connection_, others);
    try {
      return f([&] { vigil.look(); });
    } catch (const ProcessLost&) {
      throw;
    } catch (const std::exception& e) {
      // A connection broke, which does not say whose. The store will.
      for (const auto end = Clock::now() + connection_.silence() + kFarewellTime; Clock::now() < end;) {
        vigil.look();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      throw ProcessLost("lost the connection to another process (" + brief_text(e) + ")");
    }
  }

 private:
  template <class F>
  std::unique_ptr<ProcessGroup> joined(const F& join) const {
    try {
      return join(meeting_, kJoinTime);
    } catch (const std::exception& e) {
      throw std::runtime_error(
          "processes cannot reach each other (" + brief_text(e) +
          "): name the network between the machines by GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME, or "
          "set SMOOSEG_EXCHANGE=store, where MASTER_PORT alone is open");
    }
  }

  const Meeting meeting_;
  Connection& connection_;
  bool only_store_ = false;
  std::unique_ptr<ProcessGroup> host_, device_;
};

Processes::Processes() = default;

Processes::Processes(const ProcessPlace& place) : rank_(place.rank), size_(place.size) {
  if (size_ == 1) return;
  connection_ = std::make_unique<Connection>(place);
  barrier();
  groups_ = std::make_unique<Groups>(place, *connection_);
}

Processes::~Processes() = default;

const std::shared_ptr<Processes>& Processes::alone() {
  static const auto one = std::make_shared<Processes>();
  return one;
}

std::vector<Bytes> Processes::gather(const Bytes& own) {
  std::vector<Bytes> all(static_cast<std::size_t>(size_));
  if (several()) {
    connection_->begin();
    connection_->tell(own);
    for (int64_t r = 0; r < size_; ++r) {
      if (r != rank_) all[static_cast<std::size_t>(r)] = connection_->hear(r);
    }
    connection_->forget();
  }
  all[static_cast<std::size_t>(rank_)] = own;
  return all;
}

std::vector<int64_t> Processes::gather(const std::vector<int64_t>& own) {
  const auto* const first = reinterpret_cast<const uint8_t*>(own.data());
  std::vector<int64_t> numbers;
  for (const Bytes& bytes : gather(Bytes(first, first + own.size() * sizeof(int64_t)))) {
    const std::size_t before = numbers.size();
    numbers.resize(before + bytes.size() / sizeof(int64_t));
    if (!bytes.empty()) std::memcpy(numbers.data() + before, bytes.data(), bytes.size());
  }
  return numbers;
}

std::vector<int64_t> Processes::broadcast(const std::vector<int64_t>& own) {
  return gather(is_first() ? own : std::vector<int64_t>());
}

int64_t Processes::highest(int64_t own) {
  const std::vector<int64_t> all = gather(std::vector<int64_t>{own});
  return *std::max_element(all.begin(), all.end());
}

namespace {

Bytes bytes_of(const Tensor& tensor) {
  const Tensor host = tensor.detach().to(torch::kCPU).contiguous();
  const auto* const first = static_cast<const uint8_t*>(host.data_ptr());
  return {first, first + host.nbytes()};
}

/// A tensor like `tensor` of other values.
Tensor tensor_of(const Bytes& bytes, const Tensor& tensor) {
  TORCH_CHECK(bytes.size() == tensor.nbytes(), "Processes: expected tensors of one shape and dtype, got ",
              tensor.nbytes(), " bytes here and ", bytes.size(), " elsewhere");
  const Tensor host = at::empty(tensor.sizes(), tensor.options().device(torch::kCPU));
  if (!bytes.empty()) std::memcpy(host.data_ptr(), bytes.data(), bytes.size());
  return host;
}

}  // namespace

Tensor Processes::all_gather(const Tensor& tensor) {
  if (!several()) return tensor;
  if (ProcessGroup* const group = groups_->group_for(tensor)) {
    return groups_->call([&](const auto& watch) { return group->all_gather(tensor, watch); });
  }
  std::vector<Tensor> all;
  for (const Bytes& theirs : gather(bytes_of(tensor))) all.push_back(tensor_of(theirs, tensor));
  return at::cat(all).to(tensor.device());
}

Tensor Processes::all_reduce(const Tensor& tensor) {
  if (!several()) return tensor;
  if (ProcessGroup* const group = groups_->group_for(tensor)) {
    return groups_->call([&](const auto& watch) { return group->all_reduce(tensor, watch); });
  }
  connection_->begin();
  Tensor sum;
  if (is_first()) {  // which adds in the order of ranks, and tells the sum
    sum = tensor.detach().to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true).contiguous();
    for (int64_t r = 1; r < size_; ++r) sum += tensor_of(connection_->hear(r), tensor);
    connection_->tell(bytes_of(sum));
  } else {
    connection_->tell(bytes_of(tensor));
    sum = tensor_of(connection_->hear(0), tensor);
  }
  connection_->forget();
  return sum.to(tensor.device());
}

void Processes::fail(const std::string& why) noexcept {
  if (several()) connection_->fail("process " + std::to_string(rank_) + " of " + std::to_string(size_) + ": " + why);
}

void Processes::leave() {
  if (!several()) return;
  barrier();
  connection_->depart();
  connection_->stop();
}

void together(const std::function<void(const std::shared_ptr<Processes>&)>& work) {
  const ProcessPlace place = process_place();
  const auto processes = place.size == 1 ? Processes::alone() : std::make_shared<Processes>(place);
  try {
    work(processes);
  } catch (const Stopped&) {  // all of them stop
    processes->leave();
    throw;
  } catch (const ProcessLost& e) {
    processes->fail(e.what());
    throw;
  } catch (const std::exception& e) {
    processes->fail(text_of(e));
    throw;
  }
  processes->leave();
}

}  // namespace smooseg::app
