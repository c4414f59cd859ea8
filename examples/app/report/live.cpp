#include "report/live.hpp"

#include <fstream>

#include "report/page.hpp"
#include "report/run_folder.hpp"
#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {

void LivePage::write(bool goes_on) {
  constexpr int64_t kSeconds = 5;
  Page page;
  page.runs = read_run_folders({folder_.string()});
  page.refresh = goes_on ? kSeconds : 0;
  io::AtomicFile file(path());
  std::ofstream stream(file.temporary_path(), std::ios::binary);
  stream << page_html(page);
  stream.close();
  if (!stream) io::AtomicFile::fail(path(), "is the disk full?");
  file.commit();
  next_ = std::chrono::steady_clock::now() + std::chrono::seconds(kSeconds);
}

}  // namespace smooseg::app
